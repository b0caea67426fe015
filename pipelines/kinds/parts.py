"""Seals the parts of a job (verify) and opens them (worker): one fresh data key per job, wrapped by the workers' pool key; a nonce and a tag per part."""

from __future__ import annotations

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import Bound, DataKey, open_envelope
from llmos.infra.crypto.keyring import Keys
from llmos.pipelines.kinds.base import PartPlan
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.errors import TooLarge
from llmos.schemas.job import Head, Part
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.sealed import Job

_HEADROOM = 64 * 1024
"""For what Kafka and the head of a `work` record add."""
CHANNEL = "part"


def bound_of(head: Head, index: int) -> Bound:
    """What the envelope of part `index` is bound to."""
    return Bound(
        tenant=head.tenant,
        channel=CHANNEL,
        job_id=head.job_id,
        part=index,
        kind=head.kind,
        sequence=index,
        content_type=MSGPACK,
        schema=f"{head.kind}-input/1",
    )


def seal_job(keys: Keys, head: Head, plans: list[PartPlan]) -> bytes:
    """The record for `sealed`.

    Raises:
        TooLarge: the parts do not fit one record.
    """
    data_key = DataKey.fresh(keys, "pool", head.job_id)
    parts = [_seal_part(data_key, head, index, plan) for index, plan in enumerate(plans)]
    record = encode(Job(head=head, parts=parts))
    if len(record) > RECORD_BYTES - _HEADROOM:
        raise TooLarge(what="the request, split into parts,", size=len(record), limit=RECORD_BYTES - _HEADROOM)
    return record


def _seal_part(data_key: DataKey, head: Head, index: int, plan: PartPlan) -> Part:
    envelope = data_key.seal(bound_of(head, index), plan.body)
    return Part(
        index=index,
        first_item=plan.first_item,
        items=plan.items,
        envelope=envelope,
        crc32c=crc32c(envelope),
        input_tokens=plan.input_tokens,
        max_output_tokens=plan.max_output_tokens,
    )


def open_part(keys: Keys, head: Head, part: Part) -> bytes:
    """The input of a part. Raises `EnvelopeRejected`."""
    return open_envelope(keys, bound_of(head, part.index), part.envelope)
