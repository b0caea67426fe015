"""What is sealed for one place opens at no other, whoever writes the head that goes with it."""

from __future__ import annotations

import msgspec
import pytest

from llmos.infra.crypto.keyring import Keyring
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import open_part, seal_job
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Origin
from llmos.schemas.sealed import SEALED

KEYS = Keyring.memory("acme")
HEAD = Head(
    job_id=job_id("acme", "one"),
    tenant="acme",
    request_id="one",
    origin=Origin("requests", 0, 1),
    lane="standard",
    kind="echo",
    model="a" * 64,
    reply_key=b"\x01" + b"k" * 32,
)


@pytest.mark.parametrize(
    "changed",
    [
        {"reply_key": b"\x01" + b"m" * 32},
        {"reply_key": b""},
        {"model": "b" * 64},
        {"tenant": "globex"},
        {"kind": "embed"},
        {"job_id": job_id("acme", "two")},
        {"request_id": "two"},
        {"parts": 2},
        {"items": 2},
    ],
)
def test_a_part_under_another_head_does_not_open(changed: dict[str, object]) -> None:
    """Otherwise who may write to the log could name a reply key of his own, or none, and read what others asked."""
    job = SEALED.decode(seal_job(KEYS, HEAD, [PartPlan(0, 1, b"input", 0, 0, 0)], b"d" * 32))
    assert open_part(KEYS, HEAD, job.parts[0]).input == b"input"
    with pytest.raises(EnvelopeRejected):
        open_part(KEYS, msgspec.structs.replace(HEAD, **changed), job.parts[0])


def test_a_part_does_not_open_as_another_one() -> None:
    """Parts of one job cannot change places."""
    plans = [PartPlan(i, 1, b"input", 0, 0, 0) for i in range(2)]
    first, second = SEALED.decode(seal_job(KEYS, HEAD, plans, b"d" * 32)).parts
    with pytest.raises(EnvelopeRejected):
        open_part(KEYS, HEAD, msgspec.structs.replace(first, envelope=second.envelope))


def test_a_part_keeps_the_place_of_its_items() -> None:
    """Under another first item its outputs would change places with those of others; and none is left out of it."""
    head = msgspec.structs.replace(HEAD, parts=2, items=4)
    plans = [PartPlan(0, 2, b"input", 0, 0, 0), PartPlan(2, 2, b"input", 0, 0, 0)]
    for part in SEALED.decode(seal_job(KEYS, head, plans, b"d" * 32)).parts:
        assert open_part(KEYS, head, part).input == b"input"
        for changed in ({"first_item": 2 - part.first_item}, {"items": 1}, {"items": 3}):
            with pytest.raises(EnvelopeRejected):
                open_part(KEYS, head, msgspec.structs.replace(part, **changed))
