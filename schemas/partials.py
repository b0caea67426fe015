"""`partials`: outcomes of tasks (by workers), verdicts and the low watermark (by the scheduler); the first outcome wins."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Head, Item, Origin, Task, Times, Usage
from llmos.schemas.limits import Count, Epoch, Name, Offset

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


class Spent(Value, frozen=True, kw_only=True):
    """What attempts at a part took that has no outcome, as far as the scheduler has heard."""

    part: Count
    epoch: Epoch
    """Of the last attempt; it counts how many there were."""
    devices: list[Name] = []
    """Where the attempt ran that used this, and the last one."""
    usage: Usage = Usage()
    """Of the attempt that was heard of last."""


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
    spent: list[Spent] = []
    """Of parts that were begun; one whose outcome came first counts by its outcome."""


class LowWatermark(Message, frozen=True, kw_only=True, tag="low_watermark/1"):
    """All s below `low` of this partition are answered."""

    low: Offset


PARTIALS = Codec.of(Outcome, Verdict, LowWatermark)
