"""Parts are sealed one by one under a fresh key per job, and open in their own place only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import parse
from llmos.infra.crypto.keyring import Keyring, fresh_key
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import PartSeals, open_part, seal_job, seal_parts
from llmos.schemas.errors import BadSetting, EnvelopeRejected, TooLarge
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Part
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.sealed import SEALED, Job
from llmos.schemas.tasks import PartBody
from tests.kit.bench import KEYS, NOW, head

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


def readers(job: Job) -> list[str]:
    return [key_id for key_id, _ in parse(job.parts[0].envelope).wrapped]


def test_a_tenants_own_key_opens_its_parts() -> None:
    """Beside the pool's, where it has one; another tenant's does not."""
    keys = KEYS.completed(["demo", "acme"])
    job = sealed(head(), keys=keys)
    assert readers(job) == [keys.active("tenant", "demo").id, keys.active("pool").id]
    for holder, opens in ((("tenant", "demo"), True), (("pool", ""), True), (("tenant", "acme"), False)):
        ring = Keyring([keys.active(*holder)])  # type: ignore[arg-type]
        if opens:
            assert open_part(ring, job.head, job.parts[0]).input == b"first body"
        else:
            with pytest.raises(EnvelopeRejected):
                open_part(ring, job.head, job.parts[0])


def test_without_a_key_of_its_own_the_pool_alone_opens_them() -> None:
    """A tenant need not have one; without the pool's there would be nobody to do the work."""
    assert readers(sealed(head())) == [KEYS.active("pool").id]
    with pytest.raises(BadSetting, match="no active key for 'pool'"):
        sealed(head(), keys=Keyring([fresh_key("tenant", "demo")]))


def test_erased_and_rotated_nothing_opens_a_part_again() -> None:
    """With the tenant's key destroyed the pool still reads; with the pool key of its time destroyed, too, nobody does."""
    keys = KEYS.completed(["demo"])
    job = sealed(head(), keys=keys)
    tenants_gone = keys.destroyed(keys.active("tenant", "demo").id, active=True)
    assert open_part(tenants_gone, job.head, job.parts[0]).input == b"first body"
    both_gone = tenants_gone.rotated("pool").destroyed(keys.active("pool").id)
    assert not any(map(both_gone.has, readers(job)))
    with pytest.raises(EnvelopeRejected):
        open_part(both_gone, job.head, job.parts[0])
    assert readers(sealed(head(), keys=both_gone)) == [both_gone.active("pool").id]


class Rings:
    """Keys that rotate while one process seals."""

    def __init__(self, ring: Keyring) -> None:
        self.ring = ring

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ring, name)


def test_one_secret_serves_a_tenants_jobs_for_a_minute() -> None:
    """What was wrapped is the same, salt and commitment are each job's own, and each opens in its own place only."""
    keys = KEYS.completed(["demo", "acme"])
    seals = PartSeals(keys)

    def part(at: float, of: Head) -> tuple[Part, Any]:
        job: Job = SEALED.decode(seals.seal(of, PLANS, DIGEST_KEY, at))
        assert open_part(keys, of, job.parts[0]) == PartBody(b"first body", DIGEST_KEY)
        return job.parts[0], parse(job.parts[0].envelope)

    other = msgspec.structs.replace(head(), job_id=job_id("demo", "another"))
    (one, first), (two, second) = part(NOW, head()), part(NOW + 59.0, other)
    assert first.wrapped == second.wrapped
    assert first.salt != second.salt
    assert first.commitment != second.commitment
    for of, moved in ((head(), two), (other, one)):
        with pytest.raises(EnvelopeRejected):
            open_part(keys, of, moved)
    _, again = part(NOW + 59.5, head())
    assert again.salt != first.salt, "the same job sealed twice has two keys"
    assert part(NOW + 60.0, head())[1].wrapped != first.wrapped
    assert part(NOW + 59.0, msgspec.structs.replace(head(), tenant="acme"))[1].wrapped != first.wrapped


def test_rotations_renew_the_secret_at_once() -> None:
    """Of the pool, of the tenant's key, of another tenant's not; a tenant's first key and its last one count, too."""
    rings = Rings(KEYS.completed(["acme"]))
    seals = PartSeals(rings)  # type: ignore[arg-type]

    def wrapped() -> Any:
        job: Job = SEALED.decode(seals.seal(head(), PLANS, DIGEST_KEY, NOW))
        found = parse(job.parts[0].envelope).wrapped
        active = [rings.ring.active_id("tenant", "demo"), rings.ring.active_id("pool")]
        assert [key_id for key_id, _ in found] == [key_id for key_id in active if key_id]
        assert len(seals.secrets) == 1, "the one before is let go of"
        return found

    seen = [wrapped()]
    for change in (
        lambda ring: ring.completed(["demo"]),
        lambda ring: ring.rotated("pool"),
        lambda ring: ring.rotated("tenant", "demo"),
        lambda ring: ring.destroyed(ring.active_id("tenant", "demo"), active=True),
    ):
        rings.ring = change(rings.ring)
        seen.append(wrapped())
    assert len(set(seen)) == 5
    rings.ring = rings.ring.rotated("tenant", "acme").rotated("ingress")
    assert wrapped() == seen[-1]
    rings.ring = Keyring(e for e in rings.ring.entries if e.purpose != "pool")
    with pytest.raises(BadSetting, match="no active key for 'pool'"):
        wrapped()


def test_the_public_half_of_a_pool_pair_suffices_to_seal() -> None:
    """So that a client can seal its parts itself, and nobody between it and the workers opens them."""
    pool = fresh_key("pool", algorithm="x25519")
    half = Keyring([msgspec.structs.replace(pool, key=b"")])
    parts = seal_parts(half, head(), PLANS, DIGEST_KEY, ["pool"])
    with pytest.raises(EnvelopeRejected):
        open_part(half, head(), parts[0])
    assert [open_part(Keyring([pool]), head(), part).input for part in parts] == [plan.body for plan in PLANS]
