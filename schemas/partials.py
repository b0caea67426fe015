"""`partials`: outcomes of tasks (by workers), verdicts and the low watermark (by the scheduler); the first outcome wins."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo, Head, Item, Origin, Task, Times, Usage
from llmos.schemas.limits import Epoch, Name, Offset

VerdictKind = Literal["failed", "cancelled", "expired", "refused", "pointer"]


class Outcome(Message, frozen=True, kw_only=True, tag="outcome/1"):
    """A task's result: all items of its part, each with an output or an error."""

    task: Task
    head: Head
    device: Name
    items: list[Item]
    usage: Usage = Usage()
    times: Times = Times()
    precision: str = ""
    """Number format of the model as it ran."""


class Verdict(Message, frozen=True, kw_only=True, tag="verdict/1"):
    """The scheduler's word on a whole job: it ends here, without (more) work."""

    s: Offset
    head: Head
    verdict: VerdictKind
    error: ErrorInfo | None = None
    original: Origin | None = None
    """Of a pointer: the origin of the earlier submission whose answer is the answer."""
    original_s: Offset | None = None
    epoch: Epoch = 0


class LowWatermark(Message, frozen=True, kw_only=True, tag="low_watermark/1"):
    """All s below `low` of this partition are answered."""

    low: Offset


PARTIALS = Codec.of(Outcome, Verdict, LowWatermark)
