"""Makes the topics of the table, with this system's N, and checks those that exist."""

from __future__ import annotations

import asyncio

from llmos.infra.log.port import Log, TopicSpec
from llmos.infra.settings import Settings
from llmos.schemas.errors import LayoutMismatch
from llmos.schemas.topics import MANY, TABLE, Topic, topic_named


def specs(settings: Settings) -> list[TopicSpec]:
    """Every topic of the table; families (`work.<device>`) are made by their members."""
    return [_spec(topic, topic.name, settings) for topic in TABLE if "<" not in topic.name]


def spec_for(settings: Settings, name: str) -> TopicSpec:
    """One topic, members of families included. KeyError where the table has none of this name."""
    return _spec(topic_named(name), name, settings)


async def ensure_topics(log: Log, settings: Settings) -> None:
    """Makes what is missing.

    Raises:
        LayoutMismatch: a topic exists with another number of partitions than the settings say.
    """
    wanted = specs(settings)
    # Before anything is made: a wrong N must not leave new topics behind. After: another service may have made them.
    await _check(log, wanted, missing_is_fine=True)
    await log.ensure(wanted)
    await _check(log, wanted, missing_is_fine=False)


async def _check(log: Log, wanted: list[TopicSpec], *, missing_is_fine: bool) -> None:
    found = await asyncio.gather(*(log.partitions(spec.name) for spec in wanted))
    for spec, partitions in zip(wanted, found, strict=True):
        if partitions == spec.partitions or (partitions is None and missing_is_fine):
            continue
        raise LayoutMismatch(
            what=f"Topic {spec.name}",
            found=f"{partitions or 0} partitions",
            wanted=f"{spec.partitions} (kafka.partitions)",
        )


def _spec(topic: Topic, name: str, settings: Settings) -> TopicSpec:
    return TopicSpec(
        name=name,
        partitions=settings.kafka.partitions if topic.partitions == MANY else 1,
        retention_seconds=topic.retention_seconds,
        append_time=topic.append_time,
        record_bytes=topic.record_bytes,
    )
