"""N and every n ever used, in `epochs`; the names of the transactional producers that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Instance
from llmos.infra.stages.catching_up import read_to_end
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.epochs import EPOCHS, Layout
from llmos.schemas.errors import LayoutMismatch, RecordError

log = structlog.get_logger()

KEY = "layout:"
"""One key per n, so that compaction keeps them all."""
_EPOCHS = Place(topics.EPOCHS, 0)


async def record_layout(ctx: Context, partitions: int) -> Layout:
    """Writes this n down, then reads every n: whoever comes at the same time sees the other, or is seen.

    Raises:
        LayoutMismatch: the system was made with another N.
    """
    own = Layout(partitions=partitions, instances=[ctx.settings.instance.n])
    await ctx.log.emit(_EPOCHS, [Out(f"{KEY}{ctx.settings.instance.n}".encode(), encode(own))])
    found: list[Layout] = []

    def take(record: Record) -> None:
        if record.value is None or not (record.key or b"").startswith(KEY.encode()):
            return
        try:
            message = EPOCHS.decode(record.value)
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.EPOCHS, offset=record.offset, error=str(problem))
            return
        if isinstance(message, Layout):
            found.append(message)

    await read_to_end(ctx, await ctx.log.begins([_EPOCHS]), take)
    made_with = found[0].partitions
    if made_with != partitions:
        raise LayoutMismatch(what="the system", found=f"N = {made_with}", wanted=f"N = {partitions}")
    return Layout(partitions=partitions, instances=sorted({n for layout in found for n in layout.instances}))


def producer_names(instance: Instance) -> list[str]:
    """The two producers of an instance."""
    return [f"aggregator-{instance.n}-{instance.i}-{letter}" for letter in "ab"]


def overlapping_names(instance: Instance, used: Sequence[int], partitions: int) -> list[str]:
    """The producers of instances of other n that may have owned one of this instance's partitions."""
    own = {p for p in range(partitions) if p % instance.n == instance.i}
    names: list[str] = []
    for n in used:
        if n != instance.n:
            for i in sorted({p % n for p in own}):
                names += producer_names(Instance(i=i, n=n))
    return names
