"""What heartbeats say, and when."""

from __future__ import annotations

import asyncio

import pytest

from llmos.schemas.job import Task
from llmos.schemas.telemetry import TELEMETRY, DeviceLoad, Heartbeat, HostLoad, Progress
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.heart import LEAST_SECONDS, LISTED_PROGRESS, Heart, progress
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.runners.base import Meter, Used
from tests.kit.bench import Bench, on_bench
from tests.unit.services.worker.making import held_task

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DEVICE = "node-0.cpu0"


class Beating:
    """A heart over a meter that the test fills."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.models = ["m"]
        self.meter = Meter(clock=lambda: 50.0)

        def nothing(*_: object) -> object:
            raise AssertionError("no engine is made here")

        self.ctx = bench.context("worker")
        equipment = Equipment(
            device=DEVICE,
            kinds=["embed"],
            meter=self.meter,
            residents=list,
            budget_bytes=7,
            make_engine=nothing,  # type: ignore[arg-type]
            models=lambda: self.models,
            sample=lambda: (HostLoad(memory_bytes=9), DeviceLoad(utilisation=0.5)),
        )
        self.held = HeldTasks(60.0)
        self.heart = Heart(self.ctx, equipment, 3, self.held)

    @property
    def beats(self) -> list[Heartbeat]:
        found = [TELEMETRY.decode(value) for value in self.bench.values("telemetry")]
        return [message for message in found if isinstance(message, Heartbeat)]


def test_what_a_heartbeat_says() -> None:
    """Models as they are now, the step that runs, what was served (also by tasks that are not done yet), the loads."""

    async def main(bench: Bench) -> None:
        beating = Beating(bench)
        meter = beating.meter
        meter.prefill_tokens["m", "embed"] += 5
        meter.decode_tokens["m", "embed"] += 4
        meter.started, meter.waited_seconds, meter.idle_seconds = 2, 3.0, 4.0
        meter.step_began, meter.step_limit_seconds = 48.0, 6.0
        await beating.heart.beat()
        beating.models = ["m", "n"]
        meter.step_began = 0.0
        await beating.heart.beat()
        first, second = beating.beats
        assert (first.models, second.models, first.incarnation, second.sequence) == (["m"], ["m", "n"], 3, 2)
        assert (first.step_seconds, first.step_limit_seconds, second.step_seconds) == (2.0, 6.0, 0.0)
        assert (first.started, first.waited_seconds, first.idle_seconds) == (2, 3.0, 4.0)
        (served,) = first.served
        assert (served.model, served.kind, served.tasks, served.prefill_tokens, served.decode_tokens) == (
            "m",
            "embed",
            0,
            5,
            4,
        )
        assert first.host == HostLoad(memory_bytes=9)
        assert first.load == DeviceLoad(utilisation=0.5)

    on_bench(main)


def test_a_heartbeat_says_what_tasks_have_used() -> None:
    """Of those that are held and have used something; one may be in its first step, and not be known to run yet."""

    async def main(bench: Bench) -> None:
        beating = Beating(bench)
        running, first_step, waiting = held_task(0), held_task(1), held_task(2)
        running.running = True
        for task in (waiting, first_step, running):
            beating.held.take(task)
            beating.meter.using(task.name)
        beating.meter.used[running.name] = Used(5, 7, 0.5)
        beating.meter.used[first_step.name] = Used(tokens_in=9)
        beating.meter.used[0, 77, 0, 1] = Used(1, 1, 1.0)
        await beating.heart.beat()
        (beat,) = beating.beats
        assert beat.progress == [Progress(running.work.task, 5, 7, 0.5), Progress(first_step.work.task, 9, 0, 0.0)]

    on_bench(main)


def test_a_heartbeat_has_a_bound() -> None:
    """However many tasks there are."""
    tasks = [Task(0, s, 0, 1) for s in range(2 * LISTED_PROGRESS)]
    used = {(0, s, 0, 1): Used(tokens_in=s) for s in range(2 * LISTED_PROGRESS)}
    assert [one.tokens_in for one in progress(tasks, used)] == [*range(1, LISTED_PROGRESS + 1)]


def test_an_end_is_told_at_once_and_news_ten_times_a_second_at_most() -> None:
    """However often something changes."""

    async def main(bench: Bench) -> None:
        beating = Beating(bench)
        running = asyncio.create_task(beating.heart.run())
        await asyncio.sleep(LEAST_SECONDS / 2)
        beating.ctx.stop.set()
        beating.heart.beat_now()
        await asyncio.sleep(LEAST_SECONDS)
        assert [beat.draining for beat in beating.beats] == [False, True]
        for _ in range(20):
            beating.heart.beat_now()
            await asyncio.sleep(0.01)
        beating.ctx.stop.clear()
        beating.heart.beat_now()
        await asyncio.sleep(0.15)
        assert 4 <= len(beating.beats) <= 6
        assert not beating.beats[-1].draining
        before = len(beating.beats)
        await asyncio.sleep(10 * beating.ctx.settings.worker.heartbeat_seconds)
        assert 8 <= len(beating.beats) - before <= 11
        running.cancel()

    on_bench(main)
