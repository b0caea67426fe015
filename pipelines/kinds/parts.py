"""Seals the parts of a job (verify) and opens them (worker): one fresh secret per job, wrapped by the tenant's key and by the workers' pool key; a nonce and a tag per part."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.infra.crypto.channels import encode_body, part_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import DataKey, Secret, open_envelope
from llmos.infra.crypto.keyring import Keys, Purpose
from llmos.pipelines.kinds.base import PartPlan
from llmos.schemas.base import encode
from llmos.schemas.errors import EnvelopeRejected, TooLarge
from llmos.schemas.job import Head, Part
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.sealed import Job
from llmos.schemas.tasks import PartBody

_HEADROOM = 64 * 1024
"""For what Kafka and the head of a `work` record add."""
READERS: Sequence[Purpose] = ("tenant", "pool")
"""Whose keys open the parts of a job."""
_body = msgspec.msgpack.Decoder(PartBody)


def seal_job(
    keys: Keys, head: Head, plans: list[PartPlan], digest_key: bytes, readers: Sequence[Purpose] = READERS
) -> bytes:
    """The record for `sealed`. `digest_key`: see `llmos.infra.crypto.channels.digest_key`.

    Raises:
        TooLarge: the parts do not fit one record.
        BadSetting: no key of `readers` is there.
    """
    present = [purpose for purpose in readers if keys.holds(purpose, head.tenant if purpose == "tenant" else "")]
    data_key = Secret.under(keys, present or readers, head.tenant).data_key(part_bound(head, 0))
    parts = [_seal_part(data_key, head, index, plan, digest_key) for index, plan in enumerate(plans)]
    record = encode(Job(head=head, parts=parts))
    if len(record) > RECORD_BYTES - _HEADROOM:
        raise TooLarge(what="the request, split into parts,", size=len(record), limit=RECORD_BYTES - _HEADROOM)
    return record


def _seal_part(data_key: DataKey, head: Head, index: int, plan: PartPlan, digest_key: bytes) -> Part:
    envelope = data_key.seal(part_bound(head, index), encode_body(PartBody(plan.body, digest_key)))
    return Part(
        index=index,
        first_item=plan.first_item,
        items=plan.items,
        envelope=envelope,
        crc32c=crc32c(envelope),
        input_tokens=plan.input_tokens,
        max_output_tokens=plan.max_output_tokens,
    )


def open_part(keys: Keys, head: Head, part: Part) -> PartBody:
    """The input of a part. Raises `EnvelopeRejected`."""
    try:
        return _body.decode(open_envelope(keys, part_bound(head, part.index), part.envelope))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EnvelopeRejected() from None
