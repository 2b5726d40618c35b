"""Where logins are kept: one file, readable by its owner only, with one entry for each server."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

import msgspec

from artcafe_agent.cli.exits import NotLoggedIn
from artcafe_agent.errors import ConfigurationError

CONFIG_DIR_VARIABLE = "ARTCAFE_CONFIG_DIR"
TOKEN_VARIABLE = "ARTCAFE_TOKEN"
FILE_NAME = "logins.json"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A person's token for one server; ``expires_at`` in UTC epoch seconds."""

    token: str
    email: str = ""
    expires_at: float = 0.0


def config_dir() -> Path:
    """Return the folder of this program's settings, as the XDG specification has it."""
    if given := os.environ.get(CONFIG_DIR_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    # The specification says that relative paths are to be ignored.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".config") / "artcafe"


class LoginStore:
    """The logins of this person."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / FILE_NAME

    def token(self, server: str, now: float | None = None) -> str:
        """Return the token for a server; the environment's ARTCAFE_TOKEN goes before the file.

        Raises:
            NotLoggedIn: There is none, or it has expired.
        """
        if given := os.environ.get(TOKEN_VARIABLE):
            return given
        login = self._read().get(server)
        if login is None:
            raise NotLoggedIn(f"not logged in at {server}: {self.cure(server)}")
        if login.expires_at and login.expires_at <= (time.time() if now is None else now):
            raise NotLoggedIn(f"the login at {server} has expired: {self.cure(server)}")
        return login.token

    def cure(self, server: str) -> str:
        """Return what to do where there is no token for a server, or one that is not accepted."""
        if os.environ.get(TOKEN_VARIABLE):
            return f"put another token into ${TOKEN_VARIABLE}"
        login = self._read().get(server)
        email = login.email if login is not None and login.email else "ADDRESS"
        return f"run `artcafe login --server {server} --email {email}`"

    def has(self, server: str) -> bool:
        """Tell whether there is a token for a server, expired or not."""
        return bool(os.environ.get(TOKEN_VARIABLE)) or server in self._read()

    def put(self, server: str, login: Login) -> None:
        """Keep a login."""
        self._write({**self._read(), server: login})

    def remove(self, server: str) -> bool:
        """Forget a login; tell whether there was one."""
        logins = self._read()
        if server not in logins:
            return False
        del logins[server]
        self._write(logins)
        return True

    def _read(self) -> dict[str, Login]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Login])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as problem:
            raise ConfigurationError(f"{self._file} cannot be read: {problem}") from None

    def _write(self, logins: dict[str, Login]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Renamed over the old file, so that readers see one or the other; mkstemp makes it 0600.
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=FILE_NAME)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(logins)))
                os.replace(name, self._file)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as problem:
            raise ConfigurationError(f"{self._file} cannot be written: {problem.strerror}") from None
