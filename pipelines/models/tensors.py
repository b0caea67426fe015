"""Safetensors headers, checked by ourselves: a file that lies about its layout is refused before anything maps it.

The format: eight bytes with the header's length (little-endian), the header (JSON: name → dtype, shape, offsets into
what follows), then the tensors without gaps. Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import itertools
import json
import math
import os
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from llmos.pipelines.models.hashing import (
    NOTHING_KNOWN,
    READ_BYTES,
    FileRecord,
    Hasher,
    Knowledge,
    Reading,
    ReadingStopped,
    Stamp,
)

HEADER_BYTES = 100 * 1024 * 1024
"""The format's own bound on its header, in bytes."""

DTYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "F32": ("float32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
"""The format's dtypes: the name that torch has for each, and bits per number."""
_NO_PARAMETERS = ("BOOL", "I64")
"""Masks and position indices that some files carry beside the parameters."""


class Tensor(NamedTuple):
    """A tensor's place: `begin` and `end` in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        """How many trained numbers it holds."""
        return 0 if self.dtype in _NO_PARAMETERS else math.prod(self.shape)


class TensorFile(NamedTuple):
    """A whole, well-formed safetensors file."""

    record: FileRecord
    tensors: dict[str, Tensor]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]


def read_tensor_file(path: Path, relative: str = "", known: Knowledge = NOTHING_KNOWN) -> TensorFile:
    """Reads `path` once: checks the header and hashes all of it, or the header alone of a file that is `known` by its
    path `relative` in its directory and provably did not change.

    Raises:
        ValueError: the file is cut off, too long or not well-formed, or it changed meanwhile; says what is wrong.
        OSError: it cannot be read.
        ReadingStopped: the store was told to stop.
    """
    with path.open("rb", buffering=0) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        reading = Reading(stamp, known.boot)
        head = _read(file, 8)
        length = int.from_bytes(head, "little")
        if length > HEADER_BYTES:
            raise ValueError(f"its header claims {length} bytes, and {HEADER_BYTES} are allowed")
        header = _read(file, length)
        tensors = parse_header(header, stamp.size - len(head) - length)
        record = known.trusted(relative, stamp)
        if record is None:
            sha256, chunks = _hash_all(file, head + header, known)
            record = reading.record(sha256, chunks, Stamp.of(os.fstat(file.fileno())))
    return TensorFile(record, tensors)


def _hash_all(file: FileIO, start: bytes, known: Knowledge) -> tuple[str, list[str]]:
    """SHA-256 of the file, of which `start` was read, and of its chunks."""
    hasher = Hasher()
    try:
        hasher.update(start)
        for buffer in itertools.cycle([bytearray(READ_BYTES), bytearray(READ_BYTES)]):
            if known.stopped():
                raise ReadingStopped
            count = file.readinto(buffer)
            if not count:
                break
            hasher.update(memoryview(buffer)[:count])
        return hasher.finish()
    finally:
        hasher.close()


def parse_header(header: bytes, data_bytes: int) -> dict[str, Tensor]:
    """The tensors of a file whose data is `data_bytes` long. Raises `ValueError`."""
    try:
        values = json.loads(header.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"its header is not JSON: {problem}") from None
    if not header.startswith(b"{") or not isinstance(values, dict):
        raise ValueError("its header is not a JSON object")
    _check_metadata(values.pop("__metadata__", {}))
    tensors = {name: _tensor(name, value) for name, value in values.items()}
    _check_layout(tensors, data_bytes)
    return tensors


def _read(file: FileIO, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise ValueError("it is cut off within its header")
        data += more
    return bytes(data)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name is there twice")
    return values


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("its metadata is not a map of texts")


def _tensor(name: str, value: object) -> Tensor:
    try:
        entry = msgspec.convert(value, _Entry)
    except msgspec.ValidationError as problem:
        raise ValueError(f"tensor {name!r}: {problem}") from None
    if entry.dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {entry.dtype!r}")
    begin, end = entry.data_offsets
    bits = math.prod(entry.shape) * DTYPES[entry.dtype][1]
    if (end - begin) * 8 != bits:
        raise ValueError(f"tensor {name!r} takes {end - begin} bytes and its shape needs {bits // 8}")
    return Tensor(entry.dtype, tuple(entry.shape), begin, end)


def _check_layout(tensors: dict[str, Tensor], data_bytes: int) -> None:
    """No gap, no overlap, nothing behind: otherwise bytes could hide in the file, or be read as two things."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise ValueError(f"tensor {name!r} begins at {tensor.begin} and not at {position}")
        position = tensor.end
    if position != data_bytes:
        raise ValueError(f"its tensors need {position} bytes and it has {data_bytes}")
