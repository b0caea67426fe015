"""The state directory: one llmos at a time, one layout, and where everything in it lies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from llmos.schemas.errors import AlreadyRunning, LayoutMismatch

LAYOUT = "1"

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02


class StateDirectory:
    """A state directory whose lock this process holds. Made by `take`; everything here blocks for a moment.

    The lock is the kernel's (flock): it ends with the process, however that ends, and no child inherits it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def take(cls, path: Path) -> StateDirectory:
        """Makes the directory where there is none, and locks it.

        Raises:
            AlreadyRunning: another process holds it.
            LayoutMismatch: another version of llmos made it, in another layout.
        """
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(path)
        try:
            _check_layout(path)
            for part in ("kafka", "redis", "run", "logs"):
                (path / part).mkdir(exist_ok=True, mode=0o700)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    def release(self) -> None:
        """Lets the next one in. A second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def kafka(self) -> Path:
        """The broker's data."""
        return self.path / "kafka"

    @property
    def redis(self) -> Path:
        """Redis' data."""
        return self.path / "redis"

    def run_file(self, name: str) -> Path:
        """Where a running process says its id and port."""
        return run_file(self.path, name)

    def log_file(self, name: str) -> Path:
        """Where a child's output goes."""
        return log_file(self.path, name)


def run_file(state_directory: Path, name: str) -> Path:
    """`run/<name>.json`: the process id and port of a running process."""
    return state_directory / "run" / f"{name}.json"


def log_file(state_directory: Path, name: str) -> Path:
    """`logs/<name>.log`: a child's output, one JSON object a line where it is a service."""
    return state_directory / "logs" / f"{name}.log"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none, or none that is whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object so that a reader sees the old one or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value) + "\n")
    beside.replace(path)


def holder(path: Path) -> int | None:
    """The process that holds the state directory; None when nobody does."""
    try:
        probe = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(probe)
    finally:
        os.close(probe)
    return None


def _lock(path: Path) -> int:
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < _ATTEMPTS - 1:
                time.sleep(_PAUSE_SECONDS)  # `holder` takes the lock for an instant when it looks
            continue
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock
    pid = _pid(lock)
    os.close(lock)
    raise AlreadyRunning(pid=pid, directory=path)


def _pid(lock: int) -> int:
    written = os.pread(lock, 32, 0)
    return int(written) if written.isdigit() else 0


def _check_layout(path: Path) -> None:
    file = path / "layout"
    if not file.exists():
        file.write_text(LAYOUT)
    elif (found := file.read_text().strip()) != LAYOUT:
        raise LayoutMismatch(what=f"State directory {path}", found=f"layout {found}", wanted=f"layout {LAYOUT}")
