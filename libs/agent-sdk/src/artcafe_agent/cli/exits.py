"""Exit codes, and which one an error stands for."""

from __future__ import annotations

from enum import IntEnum

from artcafe_agent.errors import (
    ApiError,
    ArtcafeError,
    CommandError,
    ConfigurationError,
    CredentialsRefused,
    Disconnected,
    NotConnected,
    OutcomeUnknown,
    RevokedError,
    StoppedError,
    UnexpectedAnswer,
    Unreachable,
)


class Exit(IntEnum):
    """What the shell is told."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_AUTHENTICATED = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


EXIT_CODES_HELP = """exit codes:
  0  done
  1  refused or failed
  2  the command line or a file it names is wrong
  3  not authenticated: log in, or use another key
  4  not found
  5  the server is away or unavailable
  130  interrupted"""

_BY_CODE = {
    "unauthenticated": Exit.NOT_AUTHENTICATED,
    "not_found": Exit.NOT_FOUND,
    "unavailable": Exit.UNAVAILABLE,
    "deadline_exceeded": Exit.UNAVAILABLE,
}


class NotLoggedIn(ArtcafeError):
    """There is no valid token for the server."""


class UsageError(ArtcafeError):
    """The arguments do not make sense together."""


def exit_code(error: ArtcafeError) -> Exit:
    """Return the exit code of an error."""
    match error:
        case NotLoggedIn() | CredentialsRefused() | RevokedError():
            return Exit.NOT_AUTHENTICATED
        case UsageError() | ConfigurationError():
            return Exit.USAGE
        case ApiError():
            away = Exit.UNAVAILABLE if error.status in (502, 503, 504) else Exit.FAILED
            return _BY_CODE.get(error.code, away)
        case CommandError():
            return _BY_CODE.get(error.code, Exit.FAILED)
        case Unreachable() | UnexpectedAnswer() | NotConnected() | OutcomeUnknown():
            return Exit.UNAVAILABLE
        case StoppedError():
            return Exit.FAILED
        case Disconnected():
            return Exit.UNAVAILABLE
        case _:
            return Exit.FAILED
