"""Parts are sealed one by one under a fresh key per job, and open in their own place only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.keyring import Keyring
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import open_part, seal_job
from llmos.schemas.errors import EnvelopeRejected, TooLarge
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Part
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.sealed import SEALED, Job
from llmos.schemas.tasks import PartBody
from tests.kit.bench import KEYS, head

DIGEST_KEY = bytes(range(32))
PLANS = [PartPlan(0, 2, b"first body", 5, 7, 12), PartPlan(2, 1, b"second body", 3, 4, 7)]


def sealed(head_: Head, plans: list[PartPlan] = PLANS, keys: Keyring = KEYS) -> Job:
    job: Job = SEALED.decode(seal_job(keys, head_, plans, DIGEST_KEY))
    return job


def test_round_trip() -> None:
    """A job keeps its head; each part keeps its counts and opens to its own body; nothing is readable in between."""
    record = seal_job(KEYS, head(parts=2, items=3), PLANS, DIGEST_KEY)
    job: Job = SEALED.decode(record)
    assert job.head == head(parts=2, items=3)
    assert [(p.index, p.first_item, p.items, p.input_tokens, p.max_output_tokens) for p in job.parts] == [
        (0, 0, 2, 5, 7),
        (1, 2, 1, 3, 4),
    ]
    assert [open_part(KEYS, job.head, part) for part in job.parts] == [
        PartBody(b"first body", DIGEST_KEY),
        PartBody(b"second body", DIGEST_KEY),
    ]
    assert [part.crc32c for part in job.parts] == [crc32c(part.envelope) for part in job.parts]
    assert b"body" not in record


@pytest.mark.parametrize(
    "fields",
    [
        {"job_id": job_id("demo", "another")},
        {"tenant": "acme"},
        {"kind": "embed"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_part_of_another_job_is_refused(fields: dict[str, Any]) -> None:
    """Under a head with another job id, tenant or kind the envelope does not open."""
    job = sealed(head())
    with pytest.raises(EnvelopeRejected):
        open_part(KEYS, msgspec.structs.replace(job.head, **fields), job.parts[0])


def test_a_part_that_was_moved_is_refused() -> None:
    """Two parts of one job share their key, and still neither opens in the other's place."""
    first, second = sealed(head()).parts
    swapped = msgspec.structs.replace(second, index=first.index)
    with pytest.raises(EnvelopeRejected):
        open_part(KEYS, head(), swapped)


@pytest.mark.parametrize("at", [0, 10, 100, -1])
def test_a_changed_byte_is_refused(at: int) -> None:
    """Wherever a bit is turned over, the part does not open."""
    part = sealed(head()).parts[0]
    envelope = bytearray(part.envelope)
    envelope[at] ^= 1
    with pytest.raises(EnvelopeRejected):
        open_part(KEYS, head(), msgspec.structs.replace(part, envelope=bytes(envelope)))


def test_another_keyring_opens_nothing() -> None:
    """Keys of another pool are of no use; after a rotation the old part still opens."""
    part = sealed(head()).parts[0]
    with pytest.raises(EnvelopeRejected):
        open_part(Keyring.memory(), head(), part)
    assert open_part(KEYS.rotated("pool"), head(), part).input == b"first body"


def test_what_is_not_bound_may_change() -> None:
    """Metadata that no envelope is bound to (here the priority) does not keep the worker from opening it."""
    job = sealed(head())
    assert open_part(KEYS, msgspec.structs.replace(job.head, priority=9), job.parts[0]).input == b"first body"


def test_the_same_job_sealed_twice_is_never_the_same_bytes() -> None:
    """Every sealing draws a fresh key."""
    envelopes: list[Part] = [sealed(head()).parts[0] for _ in range(2)]
    assert envelopes[0].envelope != envelopes[1].envelope


def test_parts_that_fit_no_record_are_refused() -> None:
    """The refusal comes before the log would refuse the record; just below it goes."""
    with pytest.raises(TooLarge, match="split into parts"):
        sealed(head(), [PartPlan(0, 1, b"x" * (RECORD_BYTES // 2), 0, 0, 0)] * 2)
    assert len(sealed(head(), [PartPlan(0, 1, b"x" * (RECORD_BYTES // 2), 0, 0, 0)]).parts) == 1
