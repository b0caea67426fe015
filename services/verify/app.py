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
from llmos.pipelines.models.store import store_of
from llmos.schemas import topics
from llmos.services.verify.directory import ModelDirectory
from llmos.services.verify.handler import VerifyHandler

COMMIT_SECONDS = 1.0
LOADING_SECONDS = 10.0
"""Models that nobody on this machine has read yet may take minutes: what comes after this is counted by estimate until
their tokenizers are there."""


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    models = ModelDirectory(ctx.settings.verify.characters_per_token)
    store = store_of(ctx.settings)
    seconds = ctx.settings.node.models_watch_seconds
    loading = asyncio.create_task(store.in_thread(models.load_tokenizers, store, seconds))

    async def follow() -> None:
        await loading
        await models.watch_tokenizers(store, seconds)

    try:
        await asyncio.wait({loading}, timeout=LOADING_SECONDS)
        await run_beside(run_with(ctx, models), follow())
    finally:
        loading.cancel()


async def run_with(ctx: Context, models: ModelDirectory) -> None:
    """The same, with tokenizers that were loaded before."""
    partitions = await partitions_of(ctx, topics.ADMITTED)
    await partitions_of(ctx, topics.SEALED)
    tenants = TenantTable(ctx.keyring)
    follower = Follower(ctx, [tenants.table, models.table])
    followed = await follower.load()
    tenants.check(ctx.settings.keyring)
    places = [Place(topics.ADMITTED, p) for p in owned(ctx.settings.instance, partitions)]
    handler = VerifyHandler(ctx, tenants, models)
    stage = OneInOneOut(ctx, "verify", places, handler, COMMIT_SECONDS)
    await run_beside(
        stage.run(),
        follower.follow(followed),
        watch_backlog(ctx, stage.reached),
        handler.seals.secrets.run(ctx.clock.now),
    )
