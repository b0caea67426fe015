"""`epochs`: scheduler terms, deaths per task, the layout (N and every n used); one partition, compacted."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.limits import Count, Name, Offset, Partition, Seconds


class Term(Message, frozen=True, kw_only=True, tag="term/1"):
    """A scheduler starts; the offset of this record is its term, and a higher one ends it."""

    node: Name
    pid: Count
    at: Seconds


class Deaths(Message, frozen=True, kw_only=True, tag="deaths/1"):
    """How many workers died while they ran this task; keyed `deaths:<partition>:<s>:<part>`."""

    partition: Partition
    s: Offset
    part: Count
    deaths: Count


class Layout(Message, frozen=True, kw_only=True, tag="layout/1"):
    """N, written down at creation; every n ever used by the aggregator."""

    partitions: Count
    instances: list[Count] = []


EPOCHS = Codec.of(Term, Deaths, Layout)
