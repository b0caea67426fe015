"""Looks for what must not be there: marked texts and key material, in every form in which bytes are usually written down.

    found = search_files(directory, needles_of({"prompt": "canary-…"}), leave_out=[keyring])
    assert not found

A needle is looked for as it is (UTF-8, which is also what MessagePack and JSON have of ASCII), as UTF-16 of either order, as
hexadecimal in either case, with every byte escaped (`\\u0063`, `\\x63`), and as base64 of either alphabet at each of the three
places at which it can stand in what was encoded.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SHORTEST = 8
"""A needle has at least so many bytes: shorter ones are met by chance."""
_PIECE_BYTES = 8 * 1024 * 1024


class Needle(NamedTuple):
    """One form of what is looked for."""

    what: str
    form: str
    sought: bytes


class Found(NamedTuple):
    """Where something was found that must not be there."""

    where: str
    what: str
    form: str
    at: int


def needles_of(marks: Mapping[str, str | bytes]) -> list[Needle]:
    """All forms of all marks: name, and text or bytes. Raises ValueError for one that is too short to tell anything."""
    made = []
    for what, mark in marks.items():
        raw = mark.encode() if isinstance(mark, str) else mark
        if len(raw) < SHORTEST:
            raise ValueError(f"{what} has only {len(raw)} bytes")
        made += [Needle(what, form, sought) for form, sought in _forms(raw)]
        if isinstance(mark, str):
            made += [Needle(what, form, mark.encode(form)) for form in ("utf-16-le", "utf-16-be")]
    return made


def _forms(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as it is", raw
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    yield "\\x", "".join(f"\\x{byte:02x}" for byte in raw).encode()
    yield "\\u", "".join(f"\\u{byte:04x}" for byte in raw).encode()
    if (written := repr(raw)[2:-1].encode()) != raw:
        yield "as Python writes it", written
    for before in range(3):
        plain = _inner_base64(raw, before)
        yield f"base64 after {before} mod 3 bytes", plain
        if (other := plain.translate(_URL_SAFE)) != plain:
            yield f"url-safe base64 after {before} mod 3 bytes", other


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _inner_base64(raw: bytes, before: int) -> bytes:
    """The characters of base64 that depend on `raw` alone, whatever stands before it (so many bytes, mod 3) and behind it."""
    encoded = base64.b64encode(bytes(before) + raw)
    first = -(-before * 8 // 6)
    return encoded[first : (before + len(raw)) * 8 // 6]


def search(where: str, data: bytes, needles: Iterable[Needle]) -> list[Found]:
    """The first place of each needle in `data`."""
    places = ((needle, data.find(needle.sought)) for needle in needles)
    return [Found(where, needle.what, needle.form, at) for needle, at in places if at >= 0]


def search_files(directory: Path, needles: Collection[Needle], leave_out: Collection[Path] = ()) -> list[Found]:
    """Every file under `directory`, whole. Blocks.

    Holes of files are passed over: the broker's indexes are made of little else. A file that has gone in the meantime had
    been there for a moment only: what it held is somewhere else, or deleted.
    """
    left_out = {path.resolve() for path in leave_out}
    overlap = max(len(needle.sought) for needle in needles) - 1
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.resolve() in left_out:
            continue
        try:
            for at, data in _pieces(path, overlap):
                found += [one._replace(at=at + one.at) for one in search(str(path), data, needles)]
        except FileNotFoundError:
            continue
        found += search(f"the name of {path}", str(path.relative_to(directory)).encode(), needles)
    return found


def _pieces(path: Path, overlap: int) -> Iterator[tuple[int, bytes]]:
    """The data of a file with their places, in pieces that overlap by so many bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole from here on
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(file.fileno(), min(_PIECE_BYTES + overlap, end - at), at)
                if not data:
                    return  # it was cut meanwhile
                yield at, data
                if at + len(data) >= end:
                    at = end
                else:
                    at += _PIECE_BYTES
