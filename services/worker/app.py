"""A worker as a process: opens its device, says which models it has, and lives."""

from __future__ import annotations

from collections.abc import Callable

from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Follower
from llmos.infra.stages.tenants import TenantTable
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.models.store import ModelStore, shipped_models
from llmos.services.worker.catalog import publish_models
from llmos.services.worker.engine_thread import EngineThread
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.life import live
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.events import Event, Loading
from llmos.services.worker.runners.registry import KINDS, make_residents, make_runners


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    settings = ctx.settings.worker
    tenants = TenantTable(ctx.keyring)
    await Follower(ctx, [tenants.table]).load()
    tenants.check(ctx.settings.keyring)
    device = open_device(settings.device)
    store = ModelStore([*shipped_models(), *ctx.settings.node.models_directories])
    models = await publish_models(ctx, store)
    meter = Meter()
    residents = make_residents(device, store, settings)

    def make_runners_in_thread(tell: Callable[[Loading], None]) -> list[Runner]:
        device.activate()
        return make_runners(residents, settings, meter, tell)

    def make_engine(deliver: Callable[[list[Event]], None], died: Callable[[BaseException], None]) -> EngineThread:
        return EngineThread(make_runners_in_thread, meter, deliver, died)

    equipment = Equipment(
        device=f"{ctx.settings.node.name}.{device.label}",
        kinds=KINDS,
        models=models,
        meter=meter,
        residents=residents.residents,
        budget_bytes=residents.budget_bytes,
        make_engine=make_engine,
    )
    await live(ctx, equipment)
