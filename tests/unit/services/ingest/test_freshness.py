"""Freshness: near the log's time, once per nonce, and what an operator's word changes."""

from __future__ import annotations

import msgspec
import pytest

from llmos.schemas.dead import Replay
from llmos.schemas.errors import Stale
from llmos.schemas.job import Origin
from llmos.schemas.requests import REQUESTS, Request
from llmos.services.ingest.freshness import once
from llmos.services.ingest.loose import Loose
from tests.kit.bench import NOW, record

NONCE = bytes(range(16))
LIMIT = 900.0


def request(at: float = NOW, nonce: bytes = NONCE) -> Request:
    return Request(request_id="r", tenant="acme", kind="echo", submitted_at=at, nonce=nonce)


@pytest.mark.parametrize("apart", [-LIMIT, -1.0, 0.0, LIMIT])
def test_near_the_logs_time_it_is_fresh(apart: float) -> None:
    """On either side, to the last second; it is taken under its nonce."""
    assert once(request(NOW + apart), record(b""), None, LIMIT) == NONCE


@pytest.mark.parametrize("apart", [-LIMIT - 1, LIMIT + 1])
def test_far_from_the_logs_time_it_is_stale(apart: float) -> None:
    """An old one sent again, or one made for later."""
    with pytest.raises(Stale, match="901 s"):
        once(request(NOW + apart), record(b""), None, LIMIT)


def test_without_a_time_it_is_stale() -> None:
    """A signed request that does not say when it was made could be of any time."""
    with pytest.raises(Stale):
        once(Request(request_id="r", tenant="acme", kind="echo", nonce=NONCE), record(b""), None, LIMIT)


@pytest.mark.parametrize("nonce", [b"", bytes(15), bytes(33)])
def test_a_nonce_of_another_length_names_nothing(nonce: bytes) -> None:
    """It is refused for it elsewhere."""
    assert once(request(nonce=nonce), record(b""), None, LIMIT) == b""


def test_an_operators_word_makes_it_as_fresh_as_it_was() -> None:
    """By the time at which the log took the first record; each word counts once, for itself."""
    old = request(NOW - 9_999)
    words = [Replay(Origin("requests", 1, 7), NOW - 9_990, replays, NOW) for replays in (1, 2)]
    names = [once(old, record(b""), word, LIMIT) for word in words]
    assert len({*names, once(request(), record(b""), None, LIMIT)}) == 3
    assert all(len(name) == 15 for name in names), "no client can choose a nonce that is one of them"
    with pytest.raises(Stale):
        once(old, record(b""), msgspec.structs.replace(words[0], timestamp=NOW), LIMIT)


def test_of_a_wrong_request_what_can_be_read_counts() -> None:
    """A stale one is dead, whatever else is wrong with it; a time that is none is what it is refused for."""
    wrong = Loose(type="request/1", request_id="r", tenant="acme", priority=99, submitted_at=1.0, nonce=NONCE)
    with pytest.raises(Stale):
        once(wrong, record(b""), None, LIMIT)
    wrong.submitted_at = "yesterday"
    assert once(wrong, record(b""), None, LIMIT) == NONCE
    wrong.nonce = "text"
    assert once(wrong, record(b""), None, LIMIT) == b""


def test_a_loose_request_has_the_fields_and_defaults_of_a_right_one() -> None:
    """Else the code of a wrong request would be checked over other values than those that were signed."""
    (type_,) = REQUESTS.types
    least = {"request_id": "r", "tenant": "acme"}
    right, loose = type_(**least, kind=""), Loose(type="request/1", **least)
    for name in set(type_.__struct_fields__) - {"crc32c"}:
        assert getattr(loose, name) == getattr(right, name), name
