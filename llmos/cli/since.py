"""Points in time on a command line: a duration before now, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import typer

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|min|m|h|d)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def since(text: str, now: float) -> float:
    """The point in time (Unix seconds) that `text` names: `90s`, `30m`, `2h`, `7d` before `now`, or a date with or without
    a time (ISO 8601; UTC where it names no zone).

    Raises:
        typer.BadParameter: it is neither.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is not None:
        return now - float(match[1]) * _SECONDS[match[2]]
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a duration (30m, 2h, 7d) nor a date (2030-01-31)") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
