"""Seals the parts of a job (verify) and opens them (worker).

One data key per job, made with a salt of its own of a secret that is wrapped by the tenant's key and by the workers' pool key
and serves the tenant's jobs for a minute; a nonce and a tag per part. Whoever knows a job's tenant, id, request id and kind can
seal its parts: in a blind mode that is the client, for the pool's public key.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.infra.crypto.channels import encode_body, part_bound
from llmos.infra.crypto.counted import open_counted
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import Bound, DataKey, Secret
from llmos.infra.crypto.kept_secrets import KeptSecrets
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


class PartSeals:
    """The secrets under which one process seals jobs: one per tenant, for a minute at most and for as long as the active keys
    are those that it is wrapped by. Usable from any thread."""

    def __init__(self, keys: Keys, readers: Sequence[Purpose] = READERS) -> None:
        """`readers`: whose keys open the parts."""
        self._keys = keys
        self._readers = readers
        self.secrets: KeptSecrets[str] = KeptSecrets()
        """By tenant."""

    def seal(self, head: Head, plans: Sequence[PartPlan], digest_key: bytes, now: float) -> bytes:
        """The record for `sealed`; as `seal_job`. `now`: Unix seconds."""
        keys, tenant = self._keys, head.tenant
        active = [(purpose, keys.active_id(purpose, _whose(purpose, tenant))) for purpose in self._readers]
        present = [purpose for purpose, key_id in active if key_id or purpose != "tenant"]
        key_ids = [key_id for _, key_id in active if key_id]
        secret = self.secrets.get(tenant, now, lambda: Secret.under(keys, present, tenant), key_ids)
        return job_record(head, _sealed(secret, head, plans, digest_key))


def seal_job(
    keys: Keys, head: Head, plans: Sequence[PartPlan], digest_key: bytes, readers: Sequence[Purpose] = READERS
) -> bytes:
    """The record for `sealed`, under a secret of its own; who seals many has `PartSeals`.

    Raises:
        TooLarge: the parts do not fit one record.
        BadSetting: see `seal_parts`.
    """
    return job_record(head, seal_parts(keys, head, plans, digest_key, readers))


def seal_parts(
    keys: Keys, head: Head, plans: Sequence[PartPlan], digest_key: bytes, readers: Sequence[Purpose] = READERS
) -> list[Part]:
    """The parts, sealed for those who hold the keys of `readers`; the tenant's is left out where the keyring has none.

    `digest_key`: see `llmos.infra.crypto.channels.digest_key`. Raises `BadSetting`: a key of `readers` is not there.
    """
    present = [purpose for purpose in readers if purpose != "tenant" or keys.holds("tenant", head.tenant)]
    return _sealed(Secret.under(keys, present, head.tenant), head, plans, digest_key)


def job_record(head: Head, parts: list[Part]) -> bytes:
    """The record for `sealed`. Raises `TooLarge` where it would fit no record."""
    record = encode(Job(head=head, parts=parts))
    if len(record) > RECORD_BYTES - _HEADROOM:
        raise TooLarge(what="the request, split into parts,", size=len(record), limit=RECORD_BYTES - _HEADROOM)
    return record


def _whose(purpose: Purpose, tenant: str) -> str:
    return tenant if purpose == "tenant" else ""


def _sealed(secret: Secret, head: Head, plans: Sequence[PartPlan], digest_key: bytes) -> list[Part]:
    bounds = [part_bound(head, index, plan.first_item, plan.items) for index, plan in enumerate(plans)]
    data_key = secret.data_key(bounds[0])
    return [
        _seal_part(data_key, bound, index, plan, digest_key)
        for index, (bound, plan) in enumerate(zip(bounds, plans, strict=True))
    ]


def _seal_part(data_key: DataKey, bound: Bound, index: int, plan: PartPlan, digest_key: bytes) -> Part:
    envelope = data_key.seal(bound, encode_body(PartBody(plan.body, digest_key)))
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
        bound = part_bound(head, part.index, part.first_item, part.items)
        return _body.decode(open_counted(keys, bound, part.envelope))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise EnvelopeRejected() from None
