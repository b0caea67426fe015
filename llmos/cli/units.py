"""Bytes, durations and points in time, written for people."""

from __future__ import annotations

UNKNOWN = "–"
DAY_SECONDS = 86_400.0


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def size_of_size(done: float, of: float) -> str:
    """Bytes of bytes, with the share."""
    return f"{size(done)} of {size(of)} ({done / of:.0%})" if of else size(done)


def duration(seconds: float) -> str:
    """Seconds, in the unit that says most."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 1.5 * DAY_SECONDS else f"{seconds / DAY_SECONDS:.1f} days"


def at_time(at: float, now: float) -> str:
    """A point in time as seen from `now` (both Unix seconds); 0 is unknown."""
    if not at:
        return UNKNOWN
    if abs(at - now) < 0.05:
        return "now"
    return f"in {duration(at - now)}" if at > now else f"{duration(now - at)} ago"


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th …"""
    tail = "th" if 10 <= place % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{tail}"
