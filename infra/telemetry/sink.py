"""A thread that writes lines: a full pipe or a slow disk delays the log, never the event loop."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import IO

LINES = 10_000
"""Lines that may wait; more are counted and left out."""


class Sink:
    """Writes lines to a stream in order. Belongs to the process; any thread may write."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | threading.Event | None] = queue.Queue(LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines left out, since the start, because the stream did not keep up or failed."""
        return self._lost

    def write(self, line: str) -> None:
        """Queues a line; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self, timeout: float) -> bool:
        """Waits until what was queued is written, at most `timeout` seconds; whether it was."""
        done = threading.Event()
        try:
            self._lines.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Writes what is queued and ends the thread, within about `timeout` seconds; the stream stays open."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=timeout)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (item := self._lines.get()) is not None:
            if isinstance(item, threading.Event):
                self._flush_stream()
                item.set()
                continue
            try:
                self._stream.write(item + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the disk is full, the reader of the pipe is gone, the stream was closed
                self._lost += 1
        self._flush_stream()

    def _flush_stream(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()
