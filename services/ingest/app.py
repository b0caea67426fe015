"""Ingest as a process: the one-in-one-out stage over the requests topics, beside tenants and live counts."""

from __future__ import annotations

from llmos.infra.log.port import Place
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import watch_backlog
from llmos.infra.stages.follower import Follower, follow_from_end
from llmos.infra.stages.one_in_one_out import OneInOneOut
from llmos.infra.stages.ownership import owned, partitions_of
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.frontier import GROUP, Frontier
from llmos.services.ingest.handler import IngestHandler

COMMIT_SECONDS = 1.0


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    partitions = await partitions_of(ctx, topics.ADMITTED)
    tenants = TenantTable(ctx.keyring)
    follower = Follower(ctx, [tenants.table])
    followed = await follower.load()
    tenants.check(ctx.settings.keyring)
    credits = Credits(ctx)
    handler = IngestHandler(ctx, Tenants(tenants.named, tenants.needed), credits, partitions)
    counts = {topic: await partitions_of(ctx, topic) for topic in topics.REQUESTS.values()}
    places = [Place(topic, p) for topic, count in counts.items() for p in owned(ctx.settings.instance, count)]
    stage = OneInOneOut(ctx, GROUP, places, handler, COMMIT_SECONDS)
    everywhere = [Place(topic, p) for topic, count in counts.items() for p in range(count)]
    frontier = Frontier(ctx, everywhere, stage.reached)
    credits.note_frontier(await frontier.look())
    await run_beside(
        stage.run(),
        follower.follow(followed),
        watch_backlog(ctx, stage.reached),
        frontier.watch(credits.note_frontier),
        follow_from_end(ctx, Place(topics.TELEMETRY, 0), credits.note_telemetry),
    )
