"""Waits until the scheduler's replies say that something has come to pass, with a line that says how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llmos.cli.session import Session
from llmos.cli.status_line import StatusLine
from llmos.client import NotDone
from llmos.infra.runtime.deadline import Deadline

LOOK_SECONDS = 0.25
"""Between two looks."""


class Progress(NamedTuple):
    """What a look found."""

    done: bool
    text: str = ""
    """How far it is, for people."""
    key: object = None
    """What must change for it to be told again where a line cannot be rewritten; None: the text."""


async def until(session: Session, what: str, look: Callable[[], Awaitable[Progress]], timeout: float) -> None:
    """Looks again and again until it is done; with `--json` nothing is told on the way.

    Raises:
        NotDone: it is not after `timeout` seconds.
    """
    deadline = Deadline(timeout)
    line = StatusLine(session.err)
    try:
        while not (progress := await look()).done:
            if progress.text and not session.json:
                line.show(progress.text, progress.key)
            if not deadline.left():
                raise NotDone(what=what, seconds=timeout)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        line.end()
