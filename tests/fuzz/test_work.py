"""What verify and a worker may find on their topics: each record becomes a job, a refusal, a failure that is told, or a dead
letter, within bounds, and the good one behind it goes its way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.infra.crypto.channels import part_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import Secret
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import seal_job
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Part
from llmos.schemas.sealed import SEALED, Job
from llmos.schemas.work import Work
from tests.fuzz.material import INPUT_FIELDS, MSGPACK_VALUES, mp, packed, packed_input
from tests.fuzz.pipeline import Pipeline, work_of
from tests.fuzz.test_sealed import ABSURD
from tests.kit.bench import KEYS, head

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DETERMINISTIC = settings(derandomize=True, max_examples=200, database=None)


def job(kind: str = "echo", body: bytes | None = None) -> Job:
    """A sealed job of one part, with anything inside."""
    plan = PartPlan(0, 1, packed_input(kind, {}) if body is None else body, 1, 1, 1)
    found = SEALED.decode(seal_job(KEYS, head("k", kind=kind), [plan], bytes(32)))
    assert isinstance(found, Job)
    return found


def changed(value: bytes, data: st.DataObject) -> bytes:
    """Some bytes replaced by others."""
    found = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(found)))
        found[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    return bytes(found)


def with_part(work: Work, **changes: object) -> bytes:
    """The work with another part."""
    part: Part = msgspec.structs.replace(work.part, **changes)
    return encode(msgspec.structs.replace(work, part=part))


def test_what_is_usual_reaches_the_engine(pipeline: Pipeline) -> None:
    """So that the others below fail for what was changed in them."""
    seen = pipeline.work(encode(work_of(job("echo", mp({"text": ["hello"]})), 0)))
    assert (len(seen.took), seen.outcomes, seen.broke, seen.dead) == (1, [], [], [])


@pytest.mark.parametrize("name", MSGPACK_VALUES)
def test_rubbish_on_the_topic(pipeline: Pipeline, name: str) -> None:
    """Dead; so is a message of which a field is rubbish."""
    value = MSGPACK_VALUES[name]
    assert len(pipeline.work(value).dead) == 1
    for field in ("head", "part", "task"):
        usual = {"type": mp("work/1"), "task": mp([0, 1, 0, epoch_of(1, 1)]), field: value}
        assert len(pipeline.work(packed(usual)).dead) == 1


@pytest.mark.parametrize("kind", INPUT_FIELDS)
def test_hostile_inputs_in_parts(pipeline: Pipeline, kind: str) -> None:
    """A verify that was taken over seals anything: what is no input of the kind fails, with the engine unharmed."""
    for value in MSGPACK_VALUES.values():
        for body in (value, *(packed_input(kind, {field: value}) for field in INPUT_FIELDS[kind])):
            seen = pipeline.work(encode(work_of(job(kind, body), 0)))
            assert len(seen.took) + len(seen.outcomes) == 1
            assert not seen.dead


def test_what_is_no_body_of_a_part(pipeline: Pipeline) -> None:
    """It opens, and is none: told as unreadable."""
    work = work_of(job(), 0)
    bound = part_bound(work.head, 0, work.part.first_item, work.part.items)
    for value in MSGPACK_VALUES.values():
        envelope = Secret.under(KEYS, ["pool"], "demo").data_key(bound).seal(bound, value)
        seen = pipeline.work(with_part(work, envelope=envelope, crc32c=crc32c(envelope)))
        assert [outcome.items[0].error.code for outcome in seen.outcomes] == ["payload_unreadable"]


@pytest.mark.parametrize("envelope", ABSURD, ids=range(len(ABSURD)))
def test_absurd_envelopes(pipeline: Pipeline, envelope: bytes) -> None:
    """With a right checksum they are forged, and fail; with a wrong one they are damaged, and are to be sent again."""
    work = work_of(job(), 0)
    assert len(pipeline.work(with_part(work, envelope=envelope, crc32c=crc32c(envelope))).outcomes) == 1
    assert len(pipeline.work(with_part(work, envelope=envelope, crc32c=crc32c(envelope) ^ 1)).broke) == 1


@given(st.data())
@DETERMINISTIC
def test_changed_bytes_of_what_ingest_writes(pipeline: Pipeline, data: st.DataObject) -> None:
    """Any byte of a record of `admitted`."""
    message = Admitted(head=head("k"), payload=packed_input("echo", {}), encoding=MSGPACK)
    pipeline.admitted(changed(encode(message), data))


@pytest.mark.parametrize("name", MSGPACK_VALUES)
def test_rubbish_behind_ingest(pipeline: Pipeline, name: str) -> None:
    """Dead; so is a message of which a field is rubbish."""
    value = MSGPACK_VALUES[name]
    assert pipeline.admitted(value) is None
    assert pipeline.admitted(packed({"type": mp("admitted/1"), "head": value, "payload": mp(b"x")})) is None


@given(st.data())
@DETERMINISTIC
def test_changed_bytes(pipeline: Pipeline, data: st.DataObject) -> None:
    """Any byte of the record."""
    seen = pipeline.work(changed(encode(work_of(job("echo", mp({"text": ["hello"]})), 0)), data))
    assert len(seen.took) + len(seen.outcomes) + len(seen.broke) + len(seen.dead) <= 1
