"""The search for what must not be there finds it in every form, and wherever it lies in a file."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import msgpack
import pytest

from tests.kit import canary
from tests.kit.canary import needles_of, search, search_files

MARK = "canary-3f2a77"
KEY = bytes(range(200, 232))
NEEDLES = needles_of({"mark": MARK, "key": KEY})


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize(
    "written",
    [
        lambda raw: raw,
        lambda raw: raw.hex().encode(),
        lambda raw: raw.hex().upper().encode(),
        lambda raw: repr(raw).encode(),
        lambda raw: msgpack.packb({"a": [raw]}),
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda raw: json.dumps({"key": base64.b64encode(raw).decode()}).encode(),
    ],
)
def test_bytes_are_found_however_they_are_written(written: object, before: int) -> None:
    """With anything before and behind them."""
    data = b"...." + written(b"\xfe" * before + KEY + b"\x01\x02") + b"...."  # type: ignore[operator]
    assert {one.what for one in search("here", data, NEEDLES)} == {"key"}


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"text": f"say {MARK}!"}).encode(),
        msgpack.packb({"text": f"say {MARK}!"}),
        MARK.encode("utf-16-le"),
        f"!{MARK}".encode("utf-16-be"),
        "".join(f"\\u{ord(letter):04x}" for letter in MARK).encode(),
        f"say {MARK}".encode().hex().encode(),
    ],
)
def test_a_text_is_found_however_it_is_written(data: bytes) -> None:
    """In JSON, MessagePack, UTF-16, escapes and hexadecimal."""
    assert {one.what for one in search("here", data, NEEDLES)} == {"mark"}


def test_nothing_is_found_where_nothing_is() -> None:
    """Neither in a part of a mark, nor by chance."""
    assert not search("here", MARK[:-1].encode() + os.urandom(100_000), NEEDLES)


def test_a_mark_that_tells_nothing_is_refused() -> None:
    """It would be met by chance."""
    with pytest.raises(ValueError, match="mark has only 3 bytes"):
        needles_of({"mark": "abc"})


def test_files_are_searched_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind holes, where two pieces meet, at the very end, in names; but not in those left out."""
    monkeypatch.setattr(canary, "_PIECE_BYTES", 4096)
    with (tmp_path / "holes.index").open("wb") as file:
        file.truncate(50_000_000)
        file.seek(30_000_000)
        file.write(MARK.encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "seam").write_bytes(bytes(4096 * 3 - 5) + MARK.encode() + bytes(9000))
    (tmp_path / "deep" / "end").write_bytes(os.urandom(5000) + MARK.encode())
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / f"{MARK}.log").write_bytes(b"")
    (tmp_path / "keyring").write_bytes(MARK.encode())
    found = search_files(tmp_path, NEEDLES, [tmp_path / "keyring"])
    assert {Path(one.where).name for one in found} == {"holes.index", "seam", "end", f"{MARK}.log"}
    assert {one.at for one in found if one.where.endswith("holes.index")} == {30_000_000}
    assert {one.at for one in found if one.where.endswith("seam")} == {4096 * 3 - 5}
    assert {one.what for one in found} == {"mark"}
