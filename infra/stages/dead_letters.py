"""Makes dead letters: what a stage could not use, with its reason and origin, sealed under the system key."""

from __future__ import annotations

import msgspec

from llmos.infra.crypto.blobs import seal_blob
from llmos.infra.log.port import Out, Record
from llmos.infra.runtime.context import Context
from llmos.infra.telemetry.metrics import DEAD_LETTERS
from llmos.schemas.base import encode
from llmos.schemas.dead import DeadContents, DeadLetter, origin_key
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import Origin, error_info
from llmos.schemas.limits import RECORD_BYTES

_ROOM = RECORD_BYTES - 256 * 1024


def dead_letter(ctx: Context, record: Record, error: LlmosError) -> Out:
    """The dead letter of `record`, keyed by its origin."""
    origin = Origin(record.place.topic, record.place.partition, record.offset)
    name = origin_key(origin)
    value = record.value or b""
    contents = DeadContents(record.key, value[:_ROOM], list(record.headers))
    DEAD_LETTERS.labels(ctx.service, error.code).inc()
    key_id, sealed = seal_blob(ctx.keyring, name, msgspec.msgpack.encode(contents))
    letter = DeadLetter(
        origin=origin,
        stage=ctx.service,
        error=error_info(error),
        at=ctx.clock.now(),
        value=sealed,
        key_id=key_id,
        size=len(value),
    )
    return Out(name, encode(letter))
