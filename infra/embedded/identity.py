"""Which process is it? An id and the moment it began: ids are used again, the pair is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_AFTER_NAME = re.compile(rb".*\) (\S) (.*)", re.DOTALL)
_START = 18
"""Where the start time is in /proc/PID/stat, counted from behind the state: field 22, see proc(5)."""


def started_at(pid: int) -> int | None:
    """When a living process began, in the kernel's ticks since boot; None when it is gone or a zombie."""
    try:
        match = _AFTER_NAME.match(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    if match is None or match.group(1) in b"ZX":
        return None
    return int(match.group(2).split()[_START])


def is_alive(noted: dict[str, Any]) -> bool:
    """Does the process of a run file (`pid`, `started_at`) live? One that got its id later is another."""
    pid, began = noted.get("pid"), noted.get("started_at")
    return isinstance(pid, int) and began is not None and started_at(pid) == began
