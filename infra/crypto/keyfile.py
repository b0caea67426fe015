"""A keyring in a file that only its owner can read: made once, read by every service, replaced in one step."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from llmos.infra.crypto.keyring import KeyEntry, Keyring, bad

MODE = 0o600


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: list[KeyEntry]


def create_keyring(path: Path, tenants: Iterable[str] = ()) -> Keyring:
    """The keyring at `path`; makes one where there is none, and the keys that are missing in it.

    Raises:
        BadSetting: it exists and cannot be used, or cannot be written.
    """
    if path.exists():
        return _completed(path, tenants)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise bad(f"{path.parent} cannot be made: {problem.strerror}") from None
    try:
        _write(path, Keyring([]).completed(tenants), exclusive=True)
    except FileExistsError:
        return _completed(path, tenants)  # another process was first, and its keys are the keys
    except OSError as problem:
        raise bad(f"{path} cannot be written: {problem.strerror}") from None
    return load_keyring(path)


def load_keyring(path: Path) -> Keyring:
    """The keyring at `path`.

    Raises:
        BadSetting: it is missing, unreadable, damaged, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise bad(f"{path} has mode {mode:04o} and others may use it; run `chmod 600 {path}`")
            data = file.read()
    except FileNotFoundError:
        raise bad(f"there is no keyring at {path}; `llmos up` or `llmos keys init` makes one") from None
    except OSError as problem:
        raise bad(f"{path} cannot be read: {problem.strerror}") from None
    try:
        return Keyring(msgspec.json.decode(data, type=_File).keys)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise bad(f"{path} is not a keyring: {problem}") from None


def save_keyring(keyring: Keyring, path: Path) -> None:
    """Replaces the file at `path` at once: a reader sees the old keyring or the new one.

    Raises:
        BadSetting: it cannot be written.
    """
    try:
        _write(path, keyring, exclusive=False)
    except OSError as problem:
        raise bad(f"{path} cannot be written: {problem.strerror}") from None


def _completed(path: Path, tenants: Iterable[str]) -> Keyring:
    found = load_keyring(path)
    whole = found.completed(tenants)
    if whole is not found:
        save_keyring(whole, path)
    return whole


def _write(path: Path, keyring: Keyring, *, exclusive: bool) -> None:
    """Writes beside `path`, then puts it there in one step; `exclusive`: FileExistsError where a file is already."""
    data = msgspec.json.format(msgspec.json.encode(_File(keys=list(keyring.entries))), indent=2)
    write_private(path, data, exclusive=exclusive)


def write_private(path: Path, data: bytes, *, exclusive: bool) -> None:
    """Writes a file that only its owner can read, durably and in one step. Raises OSError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(beside, path)
        else:
            os.replace(beside, path)
        _sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
