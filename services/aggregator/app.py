"""The aggregator as a process: the transactional stage over its partitions of `partials`."""

from __future__ import annotations

from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import watch_backlog
from llmos.infra.stages.ownership import owned, partitions_of
from llmos.infra.stages.transactional import Transactional
from llmos.schemas import topics
from llmos.services.aggregator.credits import Credits
from llmos.services.aggregator.layout import overlapping_names, producer_names, record_layout
from llmos.services.aggregator.merger import Merger


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    partitions = await partitions_of(ctx, topics.PARTIALS)
    layout = await record_layout(ctx, partitions)
    instance = ctx.settings.instance
    names = [producer_names(instance), overlapping_names(instance, layout.instances, partitions)]
    credits = Credits(ctx)
    stage = Transactional(ctx, "aggregator", owned(instance, partitions), names, Merger(ctx, credits))
    await run_beside(stage.run(), credits.run(), watch_backlog(ctx, stage.reached))
