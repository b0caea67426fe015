"""`dead`: records that no stage could use, with the reason and where they came from; for operators."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo, Origin
from llmos.schemas.limits import Code, Count, Sealed, Seconds


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead_letter/1"):
    """A record that could not be used. At least once: tell repeats by `origin`."""

    origin: Origin
    stage: Code
    error: ErrorInfo
    at: Seconds
    key: bytes = b""
    value: Sealed = b""
    """The record's bytes under the system key; cut to what fits a record, `size` tells the whole."""
    key_id: str = ""
    size: Count = 0
    headers: list[tuple[str, bytes]] = []


DEAD = Codec.of(DeadLetter)
