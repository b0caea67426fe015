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
    handler = IngestHandler(ctx, Tenants(tenants.named, tenants.secrets), credits, partitions)
    places = [
        Place(topic, p)
        for topic in topics.REQUESTS.values()
        for p in owned(ctx.settings.instance, await partitions_of(ctx, topic))
    ]
    stage = OneInOneOut(ctx, "ingest", places, handler, COMMIT_SECONDS)
    await run_beside(
        stage.run(),
        follower.follow(followed),
        watch_backlog(ctx, stage.reached),
        follow_from_end(ctx, Place(topics.TELEMETRY, 0), credits.note_telemetry),
    )
