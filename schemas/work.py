"""`work.<device>`: tasks for one device, by the scheduler; a worker's claim of its device, by the worker."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import Head, Part, Task
from llmos.schemas.limits import Count, Name, Offset, Seconds


class Work(Message, frozen=True, kw_only=True, tag="work/1"):
    """One attempt at one part, for one life of one worker."""

    task: Task
    incarnation: Offset
    head: Head
    part: Part
    deadline: Seconds
    """When the job expires (Unix seconds)."""
    dispatched_at: Seconds = 0.0


class Claim(Message, frozen=True, kw_only=True, tag="claim/1"):
    """A worker takes its device; the offset of this record is its incarnation, and a later claim ends it."""

    device: Name
    node: Name
    pid: Count


WORK = Codec.of(Work, Claim)
