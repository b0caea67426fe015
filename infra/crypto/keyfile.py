"""A keyring in a file that only its owner can read: made once, read by every service, replaced in one step.

Whoever changes it holds a lock on a file beside it from reading to writing, so that no change is lost. A copy with the keys
of one service alone, for another machine, says so and is never changed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from llmos.infra.crypto.keyring import KeyEntry, Keyring, bad
from llmos.infra.crypto.private_file import MODE, read_private, write_private
from llmos.infra.crypto.roles import for_service
from llmos.infra.wording import in_words

LOCK_SECONDS: Final = 10.0
"""How long to wait for another that changes the keyring; a change takes milliseconds."""
_RETRY_SECONDS: Final = 0.02


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    version: Literal[1]
    exported_for: str = ""
    """Of a copy: the service that it has the keys of."""
    keys: list[KeyEntry]


def create_keyring(path: Path, tenants: Iterable[str] = ()) -> Keyring:
    """The keyring at `path`; makes one where there is none, and the keys that are missing in it.

    Raises:
        BadSetting: it exists and cannot be used, or cannot be written.
    """
    names = list(tenants)
    if path.exists():
        return _completed(path, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise bad(f"{path.parent} cannot be made: {problem.strerror}") from None
    try:
        _write(path, Keyring([]).completed(names), exclusive=True)
    except FileExistsError:
        return _completed(path, names)  # another process was first, and its keys are the keys
    except OSError as problem:
        raise bad(f"{path} cannot be written: {problem.strerror}") from None
    return load_keyring(path)


def load_keyring(path: Path) -> Keyring:
    """The keyring at `path`.

    Raises:
        BadSetting: it is missing, unreadable, damaged, or others may read it.
    """
    return _read(path)[0]


def load_copy(path: Path) -> tuple[Keyring, str]:
    """The keyring at `path`, and the service that it is a copy for (empty: it is the whole one). Raises as `load_keyring`."""
    return _read(path)


def changed(path: Path, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Replaces the keyring at `path` by what `change` makes of it, and gives that; nobody else changes it meanwhile.

    Raises:
        BadSetting: it cannot be read or written, it is one service's copy, or another has been changing it for 10 s; and
            what `change` raises.
    """
    with _locked(path):
        keyring, exported_for = _read(path)
        made = change(keyring)
        if made is not keyring:
            if exported_for:
                raise bad(f"{path} is a copy for {exported_for}: change the keyring that it was exported from")
            save_keyring(made, path)
    return made


def export_keyring(keyring: Keyring, service: str, path: Path) -> Keyring:
    """Writes a new file at `path` with the keys that `service` needs, for another machine; gives them.

    Raises:
        BadSetting: there is a file already, it cannot be written, or keys are missing.
        KeyError: there is no such service.
    """
    copy = for_service(keyring, service)
    try:
        _write(path, copy, exclusive=True, exported_for=service)
    except FileExistsError:
        raise bad(f"{path} is there already; an export replaces no file") from None
    except OSError as problem:
        raise bad(f"{path} cannot be written: {problem.strerror}") from None
    return copy


def save_keyring(keyring: Keyring, path: Path) -> None:
    """Replaces the file at `path` at once: a reader sees the old keyring or the new one.

    Raises:
        BadSetting: it cannot be written.
    """
    try:
        _write(path, keyring, exclusive=False)
    except OSError as problem:
        raise bad(f"{path} cannot be written: {problem.strerror}") from None


def _read(path: Path) -> tuple[Keyring, str]:
    """The keyring, and whose copy it is."""
    try:
        data = read_private(path)
    except ValueError as problem:
        raise bad(str(problem)) from None
    except FileNotFoundError:
        raise bad(f"there is no keyring at {path}; `llmos up` or `llmos keys init` makes one") from None
    except OSError as problem:
        raise bad(f"{path} cannot be read: {problem.strerror}") from None
    try:
        file_ = msgspec.json.decode(data, type=_File)
        return Keyring(file_.keys), file_.exported_for
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise bad(f"{path} is not a keyring: {in_words(problem)}") from None


def _completed(path: Path, names: Sequence[str]) -> Keyring:
    found = load_keyring(path)
    if found.completed(names) is found:
        return found  # mostly; and it may be where nothing can be written
    return changed(path, lambda keyring: keyring.completed(names))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file beside `path`. It stays there: to take it away would let two hold it."""
    try:
        fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as problem:
        raise bad(f"{path} cannot be locked: {problem.strerror}") from None
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise bad(f"another process has been changing {path} for {LOCK_SECONDS:.0f} s; try again")
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, keyring: Keyring, *, exclusive: bool, exported_for: str = "") -> None:
    """Writes beside `path`, then puts it there in one step; `exclusive`: FileExistsError where a file is already."""
    file = _File(version=1, keys=list(keyring.entries), exported_for=exported_for)
    write_private(path, msgspec.json.format(msgspec.json.encode(file), indent=2), exclusive=exclusive)
