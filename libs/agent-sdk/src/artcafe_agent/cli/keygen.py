"""`artcafe keygen`."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from artcafe_agent.cli.commands import Parsers, add_command
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import UsageError
from artcafe_agent.cli.output import record
from artcafe_agent.keys import RSA_DEFAULT_BITS, AgentKey

KINDS = ("ed25519", "ecdsa-p256", "ecdsa-p384", "rsa")


def register(parsers: Parsers) -> None:
    """Declare the command."""
    parser = add_command(
        parsers,
        "keygen",
        keygen,
        "Make a key pair for an agent.",
        "artcafe keygen ./greeter.key\nartcafe agents create Greeter --public-key ./greeter.key.pub",
        "Writes the private key (OpenSSH format, readable by you only) to FILE, the public key to FILE.pub.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="where the private key goes")
    parser.add_argument("--type", choices=KINDS, default="ed25519", help="kind of key (default: ed25519)")
    parser.add_argument(
        "--bits", type=int, default=RSA_DEFAULT_BITS, help=f"size of an RSA key (default: {RSA_DEFAULT_BITS})"
    )
    parser.add_argument("--comment", default="", help="goes into the public key")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def keygen(context: Context, args: argparse.Namespace) -> None:
    """Make and write a key pair."""
    key = AgentKey.generate(args.type, bits=args.bits, comment=args.comment)
    public = write_pair(key, args.file, force=args.force)
    fields = {
        "private_key_path": str(args.file),
        "public_key_path": str(public),
        "fingerprint": key.fingerprint,
        "public_key": key.public_key,
    }
    context.out.result(fields, record(fields))


def write_pair(key: AgentKey, file: Path, *, force: bool = False) -> Path:
    """Write both halves of a key; return the path of the public one.

    Raises:
        UsageError: One of the files exists already, or cannot be written.
    """
    public = public_path(file)
    write_private(file, key.private_bytes(), force=force, beside=public)
    try:
        public.write_text(key.public_key + "\n")
    except OSError as problem:
        raise UsageError(f"{public}: {problem.strerror}") from None
    return public


def write_private(file: Path, content: bytes, *, force: bool = False, beside: Path | None = None) -> None:
    """Write a private key, readable by its owner only.

    Raises:
        UsageError: The file, or the one ``beside`` it, exists already, or it cannot be written.
    """
    check_free(file, force, beside)
    try:
        if force:
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
        # Created with its final mode: at no moment can others open it.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
    except OSError as problem:
        raise UsageError(f"{file}: {problem.strerror}") from None


def check_free(file: Path, force: bool = False, beside: Path | None = None) -> None:
    """Refuse to replace a key that exists.

    Raises:
        UsageError: There is one.
    """
    for each in (file, beside):
        if each is not None and not force and each.exists():
            raise UsageError(f"{each} exists already; choose another name or use --force")


def public_path(file: Path) -> Path:
    """Return where the public half of a key goes."""
    return file.with_name(file.name + ".pub")
