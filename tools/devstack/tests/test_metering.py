"""The settings of a stack's folder, for metering's commands."""

import os
from pathlib import Path

import pytest

from artcafe_devstack.metering import metering_environment
from artcafe_devstack.process import StackError
from artcafe_devstack.state import StateFolder


def test_a_folder_in_which_no_stack_was_started_is_told(tmp_path: Path) -> None:
    """Nothing is made there."""
    with pytest.raises(StackError, match="no stack is running"):
        metering_environment(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_stack_that_is_stopped_is_told(tmp_path: Path) -> None:
    """Nobody is asked at the ports that it had."""
    state = StateFolder(tmp_path)
    state.open()
    state.ports(["valkey"])
    state.secrets()
    state.close()
    with pytest.raises(StackError, match=r"no stack is running in .*: start one with `make run`"):
        metering_environment(tmp_path)


def test_the_settings_are_those_of_the_running_service(tmp_path: Path) -> None:
    """Ports and passwords come from the folder, also while a launcher holds it."""
    state = StateFolder(tmp_path / "state")
    state.open()
    try:
        ports = state.ports(["nats", "valkey", "aws", "auth", "registry", "metering"])
        secrets = state.secrets()
        state.write("demo.json", {"launcher_pid": os.getpid()})
        settings = metering_environment(tmp_path / "state")
    finally:
        state.close()
    assert settings["REDIS_URL"] == f"redis://:{secrets['valkey']}@127.0.0.1:{ports['valkey']}/0"
    assert settings["NATS_URL"] == f"nats://127.0.0.1:{ports['nats']}"
    assert settings["METERING_BACKUP_DIR"] == str(tmp_path / "state" / "metering" / "backups")
