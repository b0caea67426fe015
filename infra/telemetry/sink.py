"""A thread that writes lines: a full pipe or a slow disk delays the log, never the event loop.

Lines are written in batches: a thread that woke for each line would take the interpreter from the loop as often.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import IO

LINES = 10_000
"""Lines that may wait; more are counted and left out."""
BATCH_SECONDS = 0.05
"""How long the first line of a batch waits for others."""


class Sink:
    """Writes lines to a stream in order. Belongs to the process; any thread may write."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: deque[str | threading.Event] = deque()
        self._lost = 0
        self._ending = False
        self._some = threading.Event()
        """There are lines."""
        self._hurry = threading.Event()
        """Somebody waits for them to be written."""
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines left out, since the start, because the stream did not keep up or failed."""
        return self._lost

    def write(self, line: str) -> None:
        """Queues a line; never waits."""
        if len(self._lines) >= LINES:
            self._lost += 1
            return
        self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def flush(self, timeout: float) -> bool:
        """Waits until what was queued is written, at most `timeout` seconds; whether it was."""
        done = threading.Event()
        self._lines.append(done)
        self._hurry.set()
        self._some.set()
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Writes what is queued and ends the thread, within about `timeout` seconds; the stream stays open."""
        self._ending = True
        self._hurry.set()
        self._some.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ending or self._lines:
            self._some.wait()
            self._hurry.wait(BATCH_SECONDS)
            self._some.clear()
            self._hurry.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        batch: list[str] = []
        waiting: list[threading.Event] = []
        while self._lines:
            item = self._lines.popleft()
            if isinstance(item, threading.Event):
                waiting.append(item)
            else:
                batch.append(item)
        try:
            if batch:
                self._stream.write("\n".join(batch) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the disk is full, the reader of the pipe is gone, the stream was closed
            self._lost += len(batch)
        for done in waiting:
            done.set()
