"""How large a record may be; both implementations check it before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable

from llmos.infra.log.port import Out
from llmos.schemas.limits import RECORD_BYTES

SLACK_BYTES = 64 * 1024
"""What a topic takes beyond the value of its largest record: key, headers and the batch's own header, in bytes."""
BATCH_BYTES = 1_000_000
"""A batch of several records stays below this, in bytes: less than what a topic with Kafka's defaults takes
(1,048,588), so that records that fit one by one are never refused together. One larger record is a batch of its own."""

_BESIDES_BYTES = SLACK_BYTES // 2


def size_of(out: Out) -> int:
    """Key, value and headers of a record, in bytes."""
    size = len(out.key or b"") + len(out.value or b"")
    return size + sum(len(name.encode()) + len(value) for name, value in out.headers)


def excess(outs: Iterable[Out]) -> str | None:
    """Why a record among `outs` fits no topic; None where all may be sent."""
    for out in outs:
        value = 0 if out.value is None else len(out.value)
        if value > RECORD_BYTES:
            return f"a record of {value} bytes; at most {RECORD_BYTES} are allowed"
        if (out.headers or out.key) and size_of(out) - value > _BESIDES_BYTES:
            return f"key and headers of {size_of(out) - value} bytes; at most {_BESIDES_BYTES} are allowed"
    return None
