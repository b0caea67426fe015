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
    key, value, headers = out
    size = (len(key) if key else 0) + (len(value) if value else 0)
    if headers:
        size += sum(len(name.encode()) + len(content) for name, content in headers)
    return size


def excess(outs: Iterable[Out]) -> str | None:
    """Why a record among `outs` fits no topic; None where all may be sent."""
    for out in outs:
        key, value, headers = out
        if value and len(value) > RECORD_BYTES:
            return f"a record of {len(value)} bytes; at most {RECORD_BYTES} are allowed"
        if headers or (key and len(key) > _BESIDES_BYTES):
            besides = size_of(out) - len(value or b"")
            if besides > _BESIDES_BYTES:
                return f"key and headers of {besides} bytes; at most {_BESIDES_BYTES} are allowed"
    return None
