"""Hashes of files by the whole and by chunk, and what is trusted of them."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from llmos.pipelines.models import hashing
from llmos.pipelines.models.hashing import CHUNK_BYTES, FileRecord, Hasher, Knowledge, Reading, Stamp

STAMP = Stamp(1, 2, 3, 4_000_000_000, 5_000_000_000)
RECORD = FileRecord(STAMP, "aa", ["aa"], "boot", 100.0)


@pytest.mark.parametrize("size", [0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_hashes_do_not_depend_on_how_the_bytes_come(size: int) -> None:
    """The whole, and every 16 MiB from the first byte on, the last chunk with what is left."""
    data = random.Random(size).randbytes(size)
    expected = [data[begin : begin + CHUNK_BYTES] for begin in range(0, size, CHUNK_BYTES)] or [b""]
    for step in (size or 1, 1_000_003, hashing.READ_BYTES):
        hasher = Hasher()
        for begin in range(0, size, step):
            hasher.update(data[begin : begin + step])
        whole, chunks = hasher.finish()
        assert whole == hashlib.sha256(data).hexdigest()
        assert chunks == [hashlib.sha256(chunk).hexdigest() for chunk in expected]


@pytest.mark.parametrize(
    ("known", "stamp", "trusted"),
    [
        (Knowledge({"a": RECORD}, "boot"), STAMP, True),
        (Knowledge({"a": RECORD}, "boot", since=100.0), STAMP, True),
        (Knowledge({"b": RECORD}, "boot"), STAMP, False),
        (Knowledge({"a": RECORD}, "another"), STAMP, False),
        (Knowledge({"a": RECORD}, ""), STAMP, False),
        (Knowledge({"a": RECORD}, "boot", since=100.1), STAMP, False),
        (Knowledge({"a": FileRecord(STAMP, "aa", ["aa"], "", 100.0)}, "boot"), STAMP, False),
        (Knowledge({"a": FileRecord(STAMP, "aa", ["aa"], "boot", 100.0, suspect=True)}, "boot"), STAMP, False),
        *((Knowledge({"a": RECORD}, "boot"), STAMP._replace(**{field: 9}), False) for field in Stamp._fields),
    ],
)
def test_what_is_trusted(known: Knowledge, stamp: Stamp, trusted: bool) -> None:
    """Only what was read under this boot, of a file of which nothing at all is different."""
    assert known.trusted("a", stamp) == (RECORD if trusted else None)


def test_a_young_file_is_recorded_without_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its time of modification says, which anybody can set."""
    path = tmp_path / "a"
    path.write_text("a")
    os.utime(path, (0, 0))
    stamp = Stamp.of(path.stat())
    assert Reading(stamp, "boot").record("aa", ["aa"], stamp).boot == ""
    monkeypatch.setattr(hashing.time, "time_ns", lambda: stamp.ctime_ns + hashing.RACY_NANOSECONDS)
    assert Reading(stamp, "boot").record("aa", ["aa"], stamp).boot == "boot"


def test_a_file_that_changes_while_it_is_read_has_no_record() -> None:
    """Its hash would be of no state that it ever had."""
    with pytest.raises(ValueError, match="it changed while it was read"):
        Reading(STAMP, "boot").record("aa", ["aa"], STAMP._replace(mtime_ns=9))
