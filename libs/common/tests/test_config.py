"""Configuration from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from artcafe_common.config import ConfigError, Secret, SharedConfig, describe, load, settings_of


class DemoConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings of a service of these tests."""

    workers: Annotated[int, describe("How many"), msgspec.Meta(ge=1, le=64)] = 2
    ratio: Annotated[float, msgspec.Meta(gt=0), describe("A number")] = 0.5
    enabled: Annotated[bool, describe("Whether")] = False
    maybe: Annotated[bool | None, describe("Perhaps")] = None
    mode: Annotated[Literal["fast", "slow"], describe("How")] = "fast"
    names: Annotated[tuple[str, ...], describe("Which")] = ()
    password: Annotated[Secret | None, describe("A password")] = None


class NeedyConfig(SharedConfig, frozen=True, kw_only=True):
    """Settings that must be given."""

    key: Annotated[Secret, describe("A key")]
    size: Annotated[int, describe("A size")]


def _load(**environment: str) -> DemoConfig:
    return load(DemoConfig, "DEMO_", {"NATS_URL": "nats://n:1", **environment})


def _problems(config: type[SharedConfig] = DemoConfig, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config, "DEMO_", environment)
    return caught.value.problems


def test_defaults_hold_where_nothing_is_set() -> None:
    """Only what has no default must be set."""
    config = _load()
    assert (config.workers, config.ratio, config.enabled, config.mode, config.names) == (
        *(2, 0.5, False, "fast"),
        (),
    )
    assert (config.nats_url, config.environment, config.table_prefix) == (
        *("nats://n:1", "production"),
        "artcafe-",
    )


def test_values_are_read_by_prefixed_and_shared_names() -> None:
    """A service's own settings have its prefix, the shared ones none."""
    config = _load(
        DEMO_WORKERS="4", DEMO_RATIO="2", DEMO_MODE="slow", AWS_REGION="eu-west-1", CREATE_TABLES="true"
    )
    assert (config.workers, config.ratio, config.mode) == (4, 2.0, "slow")
    assert (config.aws_region, config.create_tables) == ("eu-west-1", True)


def test_others_variables_are_none_of_our_business() -> None:
    """What has another prefix is not looked at."""
    assert _load(OTHER_WORKERS="x", PATH="/bin", DEMOX="1").workers == 2


def test_misspelt_setting_is_named_with_a_suggestion() -> None:
    """A variable under the prefix that is no setting is an error which says what was probably meant."""
    assert _problems(NATS_URL="n", DEMO_WORKRES="4") == [
        "DEMO_WORKRES is not a setting; did you mean DEMO_WORKERS?"
    ]
    assert _problems(NATS_URL="n", DEMO_QQQQ="4") == ["DEMO_QQQQ is not a setting"]


def test_missing_setting_is_named_with_its_meaning() -> None:
    """A setting that must be given says what it is."""
    problems = _problems(NeedyConfig, NATS_URL="n", DEMO_SIZE="1")
    assert problems == ["DEMO_KEY is not set: A key"]


def test_empty_counts_as_not_set() -> None:
    """An empty variable is the default, or missing where there is none."""
    assert _load(DEMO_WORKERS="").workers == 2
    assert _problems(NeedyConfig, NATS_URL="n", DEMO_KEY="", DEMO_SIZE="1") == ["DEMO_KEY is not set: A key"]


def test_all_problems_are_told_at_once() -> None:
    """Whoever sets up a service reads all faults in one go, each naming its variable."""
    problems = _problems(DEMO_WORKERS="many", DEMO_ENABLED="perhaps", DEMO_MODE="medium", DEMO_X="1")
    assert [problem.split()[0] for problem in problems] == [
        *("DEMO_X", "NATS_URL", "DEMO_WORKERS", "DEMO_ENABLED", "DEMO_MODE")
    ]
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("text", ["0", "65", "-1", "1.5", "four", "1e3", " "])
def test_number_outside_its_bounds_is_refused(text: str) -> None:
    """Bounds of a setting are checked."""
    [problem] = _problems(NATS_URL="n", DEMO_WORKERS=text)
    assert problem.startswith("DEMO_WORKERS is not valid: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("true", True), ("True", True), ("1", True), ("yes", True), ("ON", True)),
        *(("false", False), ("FALSE", False), ("0", False), ("no", False), ("off", False)),
    ],
)
def test_booleans(text: str, value: bool) -> None:
    """Each usual way to say yes and no is understood."""
    assert _load(DEMO_ENABLED=text).enabled is value
    assert _load(DEMO_MAYBE=text).maybe is value


@pytest.mark.parametrize("text", ["2", "maybe", "tru", "y", "None"])
def test_anything_else_is_no_boolean(text: str) -> None:
    """A misspelt yes is not taken for a no."""
    assert _problems(NATS_URL="n", DEMO_ENABLED=text) == ["DEMO_ENABLED is not valid: expected true or false"]


def test_list_is_split_at_commas() -> None:
    """A list's parts are trimmed and empty ones left out."""
    assert _load(DEMO_NAMES=" a, b ,,c").names == ("a", "b", "c")


def test_secret_never_shows_itself() -> None:
    """Neither the configuration nor the secret prints what is in it, and whoever asks for it gets it."""
    config = _load(DEMO_PASSWORD="hunter2", NATS_PASSWORD="hunter3", REDIS_URL="redis://:hunter4@h")
    for shown in (repr(config), str(config), repr(config.password), f"{config.password}", f"{config!r}"):
        assert "hunter" not in shown
    assert config.password is not None
    assert config.password.reveal() == "hunter2"
    assert config.password == Secret("hunter2") != Secret("hunter3")
    assert hash(config.password) == hash(Secret("hunter2"))


def test_problem_with_a_secret_does_not_show_it() -> None:
    """A fault in another setting, or in the secret itself, does not print the secret."""
    problems = _problems(NeedyConfig, NATS_URL="n", DEMO_KEY="hunter2", DEMO_SIZE="x")
    assert "hunter2" not in "".join(problems)


def test_secret_from_a_file(tmp_path: Path) -> None:
    """A secret may lie in a file whose name is given; the line end is no part of it."""
    file = tmp_path / "password"
    file.write_text("from file\n")
    config = _load(DEMO_PASSWORD_FILE=str(file), NATS_PASSWORD_FILE=str(file))
    assert config.password == config.nats_password == Secret("from file")
    assert _load(DEMO_PASSWORD="direct", DEMO_PASSWORD_FILE=str(file)).password == Secret("direct")


def test_secret_file_that_is_no_use_is_named(tmp_path: Path) -> None:
    """A file that is missing, empty or no text says which and why, and nothing of what is in it."""
    missing, empty, binary = tmp_path / "missing", tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfehunter2")
    for file, reason in (
        (missing, "No such file or directory"),
        (empty, "empty"),
        (binary, "not text"),
        (tmp_path, "Is a directory"),
    ):
        assert _problems(NATS_URL="n", DEMO_PASSWORD_FILE=str(file)) == [
            f"DEMO_PASSWORD_FILE cannot be read: {file}: {reason}"
        ]


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    """A file for a setting that is no secret is a misspelling."""
    [problem] = _problems(NATS_URL="n", DEMO_WORKERS_FILE=str(tmp_path))
    assert problem.startswith("DEMO_WORKERS_FILE is not a setting")


def test_server_id_is_the_hosts_name_where_none_is_given() -> None:
    """A replica is known by its host unless it is given a name."""
    assert _load().server_id
    assert _load(ARTCAFE_SERVER_ID="gateway-1").server_id == "gateway-1"


def test_settings_are_described_in_order() -> None:
    """Documentation is made from the struct: shared settings first, each with all that a reader needs."""
    settings = {setting.variable: setting for setting in settings_of(DemoConfig, "DEMO_")}
    names = list(settings)
    assert names.index("TABLE_PREFIX") < names.index("DEMO_WORKERS")
    workers = settings["DEMO_WORKERS"]
    assert (workers.field, workers.required, workers.default, workers.description, workers.type_name) == (
        *("workers", False, 2, "How many"),
        "whole number",
    )
    assert workers.bounds == "1 to 64"
    assert settings["DEMO_RATIO"].bounds == "above 0"
    assert settings["DEMO_MAYBE"].bounds == ""
    assert settings["NATS_URL"].required
    assert {name for name, setting in settings.items() if setting.secret} == {
        *("NATS_PASSWORD", "REDIS_URL", "DEMO_PASSWORD")
    }
    types = {name: setting.type_name for name, setting in settings.items()}
    assert types["DEMO_MODE"] == "`fast` or `slow`"
    assert types["DEMO_NAMES"] == "list, separated by commas"
    assert types["DEMO_PASSWORD"] == "secret"
    assert types["DEMO_MAYBE"] == "true or false"
    assert types["DEMO_RATIO"] == "number"
    assert types["NATS_USER"] == "text"


def test_every_shared_setting_is_described() -> None:
    """No setting goes without a word on what it is."""
    assert all(setting.description for setting in settings_of(SharedConfig, "X_"))
