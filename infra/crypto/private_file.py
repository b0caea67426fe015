"""Files that only their owner can read: keyrings, credentials."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

MODE: Final = 0o600
_POSIX: Final = os.name == "posix"
"""Elsewhere files have no such modes, and directories cannot be synchronised; clients run there, too."""


def read_private(path: Path) -> bytes:
    """What is in the file. Raises OSError; ValueError, with what to run, where others may use it."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if _POSIX and mode & 0o077:
            raise ValueError(f"{path} has mode {mode:04o} and others may use it; run `chmod 600 {path}`")
        return file.read()


def write_private(path: Path, data: bytes, *, exclusive: bool) -> None:
    """Writes a file durably and in one step; `exclusive`: FileExistsError where there is one. Raises OSError."""
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
        if _POSIX:
            _sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
