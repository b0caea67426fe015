"""Files hashed as they are read: SHA-256 of the whole and of each 16 MiB, and what proves that a file did not change since."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

CHUNK_BYTES = 16 * 1024 * 1024
"""A file's hashes by chunk are over so many bytes each, the last one over the rest."""
READ_BYTES = 4 * 1024 * 1024
"""Read at a time; divides `CHUNK_BYTES`."""
RACY_NANOSECONDS = 2_000_000_000
"""A file that changed less than this before it was read could change again without a new time stamp: the coarsest file
systems count in two seconds. Such a file is read again the next time."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_THIS_PROCESS = uuid.uuid4().hex


class ReadingStopped(Exception):
    """The store was told to stop while it read."""


class Stamp(NamedTuple):
    """What the system says of a file without reading it. As long as all of it stays and the machine runs, the bytes stay."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(found: os.stat_result) -> Stamp:
        """The stamp in a stat."""
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class FileRecord(msgspec.Struct, frozen=True):
    """A file as it was when all of it was read."""

    stamp: Stamp
    sha256: str
    chunks: list[str]
    """SHA-256 in hex of each `CHUNK_BYTES` of the file, in order."""
    boot: str
    """The machine's boot under which it was read; empty: it had changed too shortly before to be sure of it."""
    read_at: float
    """Unix seconds."""
    suspect: bool = False
    """The model was found damaged since: the file is read again before it is used again."""


class Knowledge(NamedTuple):
    """What is known of a directory's files before they are read."""

    files: dict[str, FileRecord]
    """By their paths in the directory."""
    boot: str
    """The machine's boot as of now; empty: nothing is trusted."""
    since: float = 0.0
    """What was read before this (Unix seconds) is read again."""
    stopped: Callable[[], bool] = lambda: False
    """Asked between two pieces of a file; where it says so, reading ends with `ReadingStopped`."""

    def trusted(self, path: str, stamp: Stamp) -> FileRecord | None:
        """The record of a file that provably did not change since it was read."""
        record = self.files.get(path)
        if record is None or not self.boot or record.boot != self.boot or record.suspect:
            return None
        return record if record.stamp == stamp and record.read_at >= self.since else None


NOTHING_KNOWN = Knowledge({}, "")


class Hasher:
    """Hashes a file's bytes as they come, the whole in a thread beside the chunks: both together cost the time of one."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._in_chunk = 0
        self._chunks: list[str] = []
        self._beside: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self.size = 0
        """Bytes that came."""

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes; they must stay as they are until the call after this one."""
        view = memoryview(data)
        self.size += len(view)
        if self._beside is None and self.size > READ_BYTES:
            self._beside = ThreadPoolExecutor(1, "hash")
        self._wait()
        if self._beside is None:
            self._whole.update(view)
        else:
            self._pending = self._beside.submit(self._whole.update, view)
        while view:
            part = view[: CHUNK_BYTES - self._in_chunk]
            self._chunk.update(part)
            self._in_chunk += len(part)
            view = view[len(part) :]
            if self._in_chunk == CHUNK_BYTES:
                self._end_chunk()

    def finish(self) -> tuple[str, list[str]]:
        """SHA-256 in hex of all bytes, and of each chunk."""
        self.close()
        if self._in_chunk or not self._chunks:
            self._end_chunk()
        return self._whole.hexdigest(), self._chunks

    def close(self) -> None:
        """Ends the thread; for when the file could not be read to its end."""
        self._wait()
        if self._beside is not None:
            self._beside.shutdown()
            self._beside = None

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk, self._in_chunk = hashlib.sha256(), 0


class Reading:
    """One reading of a file from its first byte to its last, in place of trusting what is known of it."""

    def __init__(self, stamp: Stamp, boot: str) -> None:
        self._stamp = stamp
        self._boot = boot
        self._began_ns = time.time_ns()

    def record(self, sha256: str, chunks: list[str], now: Stamp) -> FileRecord:
        """What was read; `now` is the file's stamp after it. Raises `ValueError` where the file changed meanwhile."""
        if now != self._stamp:
            raise ValueError("it changed while it was read")
        boot = self._boot if is_settled(now.ctime_ns, self._began_ns) else ""
        return FileRecord(now, sha256, chunks, boot, self._began_ns / 1e9)


def is_settled(changed_ns: int, now_ns: int) -> bool:
    """Whether the last change is so long ago that another one must show in the stamp."""
    return changed_ns <= now_ns - RACY_NANOSECONDS


def boot_id() -> str:
    """Names the machine's present boot; where the system does not tell, this process, which then trusts itself alone."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return _THIS_PROCESS
