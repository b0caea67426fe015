"""Verify as a process: the one-in-one-out stage over `admitted`, beside catalog and tenants."""

from __future__ import annotations

import asyncio

from llmos.infra.log.port import Place
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import watch_backlog
from llmos.infra.stages.follower import Follower
from llmos.infra.stages.one_in_one_out import OneInOneOut
from llmos.infra.stages.ownership import owned, partitions_of
from llmos.infra.stages.tenants import TenantTable
from llmos.pipelines.models.store import ModelStore, shipped_models
from llmos.schemas import topics
from llmos.services.verify.directory import ModelDirectory
from llmos.services.verify.handler import VerifyHandler

COMMIT_SECONDS = 1.0


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    models = ModelDirectory(ctx.settings.verify.characters_per_token)
    store = ModelStore([*shipped_models(), *ctx.settings.node.models_directories])
    await asyncio.to_thread(models.load_tokenizers, store)
    await run_with(ctx, models)


async def run_with(ctx: Context, models: ModelDirectory) -> None:
    """The same, with tokenizers that were loaded before."""
    partitions = await partitions_of(ctx, topics.ADMITTED)
    await partitions_of(ctx, topics.SEALED)
    tenants = TenantTable(ctx.keyring)
    follower = Follower(ctx, [tenants.table, models.table])
    followed = await follower.load()
    tenants.check(ctx.settings.keyring)
    places = [Place(topics.ADMITTED, p) for p in owned(ctx.settings.instance, partitions)]
    stage = OneInOneOut(ctx, "verify", places, VerifyHandler(ctx, tenants, models), COMMIT_SECONDS)
    await run_beside(stage.run(), follower.follow(followed), watch_backlog(ctx, stage.reached))
