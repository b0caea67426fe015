"""N and every n ever used, in `epochs`; the names of the transactional producers that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Instance
from llmos.infra.stages.catching_up import read_to_end
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.epochs import EPOCHS, Layout
from llmos.schemas.errors import LayoutMismatch

KEY = b"layout"
_EPOCHS = Place(topics.EPOCHS, 0)


async def record_layout(ctx: Context, partitions: int) -> Layout:
    """Reads the layout and adds this n to it before anything is written under it.

    Raises:
        LayoutMismatch: the system was made with another N.
    """
    found: list[Layout] = []

    def take(record: Record) -> None:
        if record.key == KEY and record.value is not None:
            message = EPOCHS.decode(record.value)
            if isinstance(message, Layout):
                found.append(message)

    await read_to_end(ctx, await ctx.log.begins([_EPOCHS]), take)
    layout = found[-1] if found else Layout(partitions=partitions)
    if layout.partitions != partitions:
        raise LayoutMismatch(what="the system", found=f"N = {layout.partitions}", wanted=f"N = {partitions}")
    # Two instances may have added their n at the same time: every record counts.
    used = sorted({n for record in found for n in record.instances} | {ctx.settings.instance.n})
    if used != list(layout.instances):
        layout = Layout(partitions=partitions, instances=used)
        await ctx.log.emit(_EPOCHS, [Out(KEY, encode(layout))])
    return layout


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
