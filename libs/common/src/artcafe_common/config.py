"""Configuration: one frozen struct per service, read from the environment.

A field of `SharedConfig` is the variable of the same name in capitals (``nats_url`` is ``NATS_URL``); a field
of a service's own struct has the service's prefix (``GATEWAY_WORKERS``). A variable under the prefix that is
no field is an error, an empty variable counts as not set, and a `Secret` may come from a file
(``NATS_PASSWORD_FILE``). Every problem is reported at once.
"""

from __future__ import annotations

import difflib
import socket
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

FILE_SUFFIX = "_FILE"

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Secret:
    """A value that does not show itself when printed or logged."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def describe(text: str) -> msgspec.Meta:
    """Return the documentation of a setting, to stand beside its type in ``Annotated``."""
    return msgspec.Meta(description=text)


class SharedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that every service has, without a prefix."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas, e.g. `nats://127.0.0.1:4222`")]
    nats_user: Annotated[str | None, describe("User of this service at NATS")] = None
    nats_password: Annotated[Secret | None, describe("Password of that user")] = None
    nats_stream_replicas: Annotated[
        int,
        msgspec.Meta(ge=1, le=5),
        describe(
            "On how many servers of a NATS cluster each stream is kept; an existing one gains, never loses"
        ),
    ] = 1
    redis_url: Annotated[
        Secret | None, describe("Valkey with its password, e.g. `redis://:secret@127.0.0.1:6379/0`")
    ] = None
    environment: Annotated[
        Literal["development", "production"],
        describe("`production` refuses what is meant for one machine only, such as the local issuer"),
    ] = "production"
    artcafe_server_id: Annotated[
        str, describe("Name of this replica in logs and routing paths; default: the host's name")
    ] = ""
    artcafe_state_dir: Annotated[
        str | None,
        describe(
            "Folder for what must survive the end of this process, usage that was not sent among it; "
            "replicas on one machine may share it"
        ),
    ] = None
    usage_spool_mib: Annotated[
        int,
        msgspec.Meta(ge=1, le=4096),
        describe("Room in that folder, in MiB for each process, for usage that NATS has not taken yet"),
    ] = 64
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], describe("Least level that is logged")
    ] = "INFO"
    aws_region: Annotated[str, describe("AWS region of the tables and buckets")] = "us-east-1"
    aws_endpoint_url: Annotated[
        str | None, describe("Address of an AWS emulator; not set where the real AWS is used")
    ] = None
    table_prefix: Annotated[str, describe("What the names of all tables start with")] = "artcafe-"
    create_tables: Annotated[bool, describe("Create this service's missing tables, also while it runs")] = (
        False
    )
    table_tags: Annotated[
        tuple[str, ...],
        describe("Tags of all tables and buckets beside our own, e.g. `team=agents,cost=4711`"),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises: ConfigError."""
        wrong = [tag for tag in self.table_tags if not tag.partition("=")[0] or "=" not in tag]
        if wrong:
            raise ConfigError([f"TABLE_TAGS is not valid: {wrong[0]!r}: expected key=value"])

    @property
    def server_id(self) -> str:
        """The name of this replica."""
        return self.artcafe_server_id or socket.gethostname()

    def table_tags_by_key(self) -> dict[str, str]:
        """Return the tags of the operator."""
        return {key: value for key, _, value in (tag.partition("=") for tag in self.table_tags)}


ConfigT = TypeVar("ConfigT", bound=SharedConfig)


class ConfigError(Exception):
    """The environment does not make a configuration; `problems` has a line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _UnreadableFile(Exception):
    """The file of a secret is no use; the text says why and names the variable."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its variable, type, default (None where required) and documentation."""

    field: str
    variable: str
    type: Any
    required: bool
    default: object
    description: str

    @property
    def secret(self) -> bool:
        """Whether the value is a `Secret`."""
        return Secret in (self.type, *get_args(self.type))

    @property
    def type_name(self) -> str:
        """The type as documentation shows it."""
        return "secret" if self.secret else _type_name(self.type)

    @property
    def bounds(self) -> str:
        """The bounds of a number as documentation shows them; empty where there are none."""
        if get_origin(self.type) is not Annotated:
            return ""
        given = {
            name: getattr(constraint, name)
            for constraint in get_args(self.type)[1:]
            for name in _BOUNDS
            if getattr(constraint, name) is not None
        }
        if given.keys() == {"ge", "le"}:
            return f"{given['ge']} to {given['le']}"
        return ", ".join(f"{_BOUNDS[name]} {value}" for name, value in given.items())


def settings_of(config: type[SharedConfig], prefix: str) -> Iterator[Setting]:
    """Yield the settings of a configuration struct, the shared ones first."""
    shared = {field.name for field in msgspec.structs.fields(SharedConfig)}
    for field in msgspec.structs.fields(config):
        bare, description = _unannotated(field.type)
        name = field.name.upper()
        yield Setting(
            field=field.name,
            variable=name if field.name in shared else f"{prefix}{name}",
            type=bare,
            required=field.required,
            default=_default(field),
            description=description,
        )


def load(config: type[ConfigT], prefix: str, environment: Mapping[str, str]) -> ConfigT:
    """Read a configuration from the environment.

    Raises: ConfigError with one line per problem, each naming the variable.
    """
    settings = {setting.variable: setting for setting in settings_of(config, prefix)}
    problems = list(_misspelt(settings, prefix, environment))
    values: dict[str, Any] = {}
    for setting in settings.values():
        try:
            text = _text_of(setting, environment)
            if text is not None:
                values[setting.field] = _convert(text, setting.type)
            elif setting.required:
                problems.append(f"{setting.variable} is not set: {setting.description}")
        except _UnreadableFile as error:
            problems.append(str(error))
        except (ValueError, msgspec.ValidationError) as error:
            shown = "its value" if setting.secret else str(error)
            problems.append(f"{setting.variable} is not valid: {shown}")
    if problems:
        raise ConfigError(problems)
    return config(**values)


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.required:
        return None
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _misspelt(settings: Mapping[str, Setting], prefix: str, environment: Mapping[str, str]) -> Iterator[str]:
    known = set(settings) | {f"{s.variable}{FILE_SUFFIX}" for s in settings.values() if s.secret}
    for name in sorted(environment):
        if name.startswith(prefix) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{name} is not a setting{hint}"


def _text_of(setting: Setting, environment: Mapping[str, str]) -> str | None:
    if text := environment.get(setting.variable, ""):
        return text
    variable = f"{setting.variable}{FILE_SUFFIX}"
    if setting.secret and (path := environment.get(variable, "")):
        try:
            text = Path(path).read_text().strip()
        except OSError as error:
            raise _UnreadableFile(f"{variable} cannot be read: {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise _UnreadableFile(f"{variable} cannot be read: {path}: not text") from None
        if not text:
            raise _UnreadableFile(f"{variable} cannot be read: {path}: empty")
        return text
    return None


def _convert(text: str, wanted: Any) -> object:
    options = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    if Secret in options:
        return Secret(text)
    if bool in options:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise ValueError("expected true or false")
    if any(get_origin(option) is tuple for option in options):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return msgspec.convert(text, wanted, strict=False)


def _unannotated(annotation: Any) -> tuple[Any, str]:
    if get_origin(annotation) is Annotated:
        bare, *extras = get_args(annotation)
        texts = [
            extra.description for extra in extras if isinstance(extra, msgspec.Meta) and extra.description
        ]
        constraints = [extra for extra in extras if isinstance(extra, msgspec.Meta) and not extra.description]
        # Constraints stay: they are checked when the value is converted.
        return (Annotated[bare, *constraints] if constraints else bare), " ".join(texts)
    return annotation, ""


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation) if part is not type(None))
    if origin is tuple:
        return "list, separated by commas"
    names = {bool: "true or false", str: "text", int: "whole number", float: "number"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
