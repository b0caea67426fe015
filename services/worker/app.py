"""A worker as a process: opens its device, says which models it has, and lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmos.infra.runtime.context import Context
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.watch import HostWatch
from llmos.pipelines.models.store import CACHE, ModelStore, shipped_models
from llmos.schemas.errors import ModelDamaged
from llmos.services.worker.catalog import ModelWatch
from llmos.services.worker.crew import Crew
from llmos.services.worker.engine_thread import EngineThread, Teller, Waker
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.life import live
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Event
from llmos.services.worker.runners.keeper import ModelKeeper
from llmos.services.worker.runners.registry import KINDS, factories, make_residents
from llmos.services.worker.runners.step_times import StepTimes


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    settings = ctx.settings.worker
    device = open_device(settings.device)
    name = f"{ctx.settings.node.name}.{device.label}"
    store = ModelStore(
        [*shipped_models(), *ctx.settings.node.models_directories], cache=ctx.settings.state_directory / CACHE
    )
    watch = ModelWatch(ctx, store)
    await watch.start()
    meter = Meter(step_times=StepTimes(settings.first_step_seconds))
    residents = make_residents(device, store, settings)
    loop = asyncio.get_running_loop()

    def damaged(identity: str, problem: ModelDamaged) -> None:
        loop.call_soon_threadsafe(watch.damaged, identity, str(problem.values["problem"]))

    def make_crew(tell: Teller, wake: Waker) -> Crew:
        device.activate()
        residents.wake = wake
        keeper = ModelKeeper(residents, meter, tell, device=name, damaged=damaged)
        return Crew(factories(settings, meter), keeper, meter)

    def make_engine(deliver: Callable[[list[Event]], None], died: Callable[[BaseException], None]) -> EngineThread:
        return EngineThread(make_crew, meter, deliver, died)

    equipment = Equipment(
        device=name,
        kinds=KINDS,
        meter=meter,
        residents=residents.residents,
        budget_bytes=residents.budget_bytes,
        make_engine=make_engine,
        models=lambda: watch.models,
        verify=watch.order,
        sample=HostWatch(device).sample,
        beside=(watch.run,),
    )
    await live(ctx, equipment)
