"""Reads records whose header names are not UTF-8: the broker takes them from any client, aiokafka's reader stops at them.

aiokafka decodes header names strictly, so one such record would stop its partition for ever. When one was met, this
process reads with aiokafka's own decoder in Python, on bytes that decode leniently: slower, and past the record.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.memory_records import _MemoryRecordsPy


class _Bytes(bytearray):
    """Decodes what is not UTF-8 with replacement characters; so do its slices."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Bytes(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch whose records are read from lenient bytes, once its checksum was compared."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Bytes):
            self._buffer = _Bytes(self._buffer)


class _LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """aiokafka's reader of a fetched piece of the log, with lenient batches."""

    def next_batch(self, *_: Any) -> Any:
        piece = self._next_slice
        if piece is None:
            return None
        self._cache_next()
        magic = piece[self.MAGIC_OFFSET]
        if magic < 2:
            return LegacyRecordBatch(piece, magic)
        return _LenientBatch(piece)


def read_leniently() -> bool:
    """From now on this process does; False if it did already."""
    if fetcher.MemoryRecords is _LenientRecords:
        return False
    fetcher.MemoryRecords = _LenientRecords
    return True
