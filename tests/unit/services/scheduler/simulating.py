"""Two emulated engines that decode in batches, served by the scheduler's own policy, windows and measurements, in virtual time."""

from __future__ import annotations

import heapq
from random import Random

import msgspec

from llmos.infra.settings.tree import Scheduler
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.snapshot import Carried, Snapshot, Waiting
from llmos.schemas.telemetry import Heartbeat, Residency, Served
from llmos.services.scheduler.fleet import Device, Fleet
from llmos.services.scheduler.jobs import Jobs, LiveJob, LiveTask
from llmos.services.scheduler.views import rules_of
from tests.kit.bench import NOW, head
from tests.unit.services.scheduler.making import job_of

STEP, SEQUENCE, TOKEN = 0.02, 0.002, 0.0005
"""Seconds: a decode step, what each further sequence adds, a prompt token."""
BEAT_SECONDS = 0.5


class Sequence:
    """A task on an engine."""

    def __init__(self, task: LiveTask, came_at: float, prompt: int, output: int) -> None:
        self.task = task
        self.came_at = came_at
        self.prompt = prompt
        self.output = self.left = output


class EmulatedEngine:
    """A running batch; counts as a worker's heartbeats do."""

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.speed = 1.0
        self.queue: list[Sequence] = []
        self.batch: list[Sequence] = []
        self.steps_at: float | None = None
        self.counts = {"tasks": 0, "tokens_out": 0, "prefill_tokens": 0, "decode_steps": 0, "decode_tokens": 0}
        self.seconds = {"busy_seconds": 0.0, "prefill_seconds": 0.0, "decode_seconds": 0.0}
        self.started = 0
        self.waited = 0.0

    def step(self, now: float) -> list[Sequence]:
        """The end of a step, and the begin of the next; gives what is done."""
        done = [sequence for sequence in self.batch if sequence.left <= 0]
        for sequence in done:
            self.counts["tasks"] += 1
            self.counts["tokens_out"] += sequence.output
        self.batch = [sequence for sequence in self.batch if sequence.left > 0]
        prompts = 0
        while self.queue and len(self.batch) < self.slots:
            sequence = self.queue.pop(0)
            self.started += 1
            self.waited += now - sequence.came_at
            prompts += sequence.prompt
            self.batch.append(sequence)
        if not self.batch:
            self.steps_at = None
            return done
        size = len(self.batch)
        prefill = prompts * TOKEN / self.speed
        decode = (STEP + SEQUENCE * (size - 1)) / self.speed
        for sequence in self.batch:
            sequence.left -= 1
        for name, count in (("prefill_tokens", prompts), ("decode_steps", 1), ("decode_tokens", size)):
            self.counts[name] += count
        for name, taken in (
            ("prefill_seconds", prefill),
            ("decode_seconds", decode),
            ("busy_seconds", prefill + decode),
        ):
            self.seconds[name] += taken
        self.steps_at = now + prefill + decode
        return done

    def beat(self, now: float) -> Heartbeat:
        """What the worker would say."""
        served = Served(model="m", kind="generate", **self.counts, **self.seconds)  # type: ignore[arg-type]
        return Heartbeat(
            device=self.name, node="n", pid=1, incarnation=1, sequence=0, at=now, slots=self.slots, kinds=["generate"],
            models=["m"], budget_bytes=100, served=[served], busy_seconds=self.seconds["busy_seconds"],
            residents=[Residency(model="m", name="m", state="resident", resident_bytes=1)], started=self.started,
            waited_seconds=self.waited,
        )  # fmt: skip


class Simulation:
    """Tasks come at random; what happened is in `latencies` (arrival, seconds), `served`, and `idle` (work waited meanwhile)."""

    def __init__(self, settings: Scheduler, seed: int, rate: float, slots: int) -> None:
        self.random = Random(seed)
        self.now = NOW
        self.engines = {name: EmulatedEngine(name, slots) for name in "ab"}
        self.latencies: list[tuple[float, float]] = []
        self.served = dict.fromkeys("ab", 0)
        self.idle = dict.fromkeys("ab", 0)
        """Ends of steps after which an engine had a free slot though a task waited for any device."""
        self.fleet = Fleet()
        self._rules = rules_of(settings)
        self._rate = rate
        self._jobs = Jobs()
        self._carried = Carried()
        self._arrives_at = NOW
        self._beats_at = NOW + BEAT_SECONDS
        self._count = 0
        self._outputs: dict[int, int] = {}
        for engine in self.engines.values():
            self.fleet.put(Device(engine.beat(NOW), settings, NOW))

    def run(self, seconds: float) -> None:
        """So much longer."""
        end = self.now + seconds
        while self.now < end:
            steps = [(engine.steps_at, engine.name) for engine in self.engines.values() if engine.steps_at is not None]
            heapq.heapify(steps)
            step_at = steps[0][0] if steps else float("inf")
            self.now = min(self._arrives_at, self._beats_at, step_at)
            if self.now == self._arrives_at:
                self._arrive()
            elif self.now == self._beats_at:
                self._beats_at += BEAT_SECONDS
                for engine in self.engines.values():
                    self._device(engine.name).heard(engine.beat(self.now), self.now)
            else:
                self._end_step(self.engines[steps[0][1]])
            self._turn()

    def _arrive(self) -> None:
        self._count += 1
        most = self.random.choice((16, 32, 64, 96))
        message = job_of(head(f"k{self._count}", self._count, kind="generate", model="m"))
        part = msgspec.structs.replace(
            message.parts[0], input_tokens=self.random.randint(16, 256), max_output_tokens=most
        )
        self._outputs[self._count] = self.random.randint(most // 4, most)
        job = LiveJob(0, self._count, msgspec.structs.replace(message.head, sealed_at=self.now), self.now + 600)
        self._jobs.add(job, [part])
        self._jobs.wait(job.tasks[0])
        self._arrives_at = self.now + self.random.expovariate(self._rate)

    def _end_step(self, engine: EmulatedEngine) -> None:
        for sequence in engine.step(self.now):
            task = sequence.task
            self._device(engine.name).gave_back(task, self.now)
            self.latencies.append((task.key.arrival, self.now - task.key.arrival))
            self.served[engine.name] += 1
            self._jobs.remove(task.key.partition, task.key.s)

    def _turn(self) -> None:
        if not self._jobs.anybody_waits:
            return
        waiting = [Waiting(group, keys, 1, len(keys)) for group, keys in self._jobs.waiting()]
        decision = decide(Snapshot(waiting, self.fleet.views(self.now), self._rules, self._carried), self.now)
        self._carried = decision.carried
        for chosen in decision.chosen:
            task = self._jobs.task((0, chosen.task.s, 0))
            assert task is not None
            self._jobs.leave(task)
            task.expected_seconds = chosen.service_seconds
            self._device(chosen.device).took(task, self.now)
            engine = self.engines[chosen.device]
            engine.queue.append(Sequence(task, self.now, chosen.task.input_tokens, self._outputs.pop(chosen.task.s)))
            if engine.steps_at is None:
                engine.step(self.now)
        if decision.held:
            for engine in self.engines.values():
                self.idle[engine.name] += len(engine.batch) + len(engine.queue) < engine.slots

    def _device(self, name: str) -> Device:
        device = self.fleet.get(name)
        assert device is not None
        return device

    def quantile(self, fraction: float, since: float) -> float:
        """Of the latencies of tasks that came `since` seconds after the start, or later."""
        found = sorted(seconds for arrival, seconds in self.latencies if arrival >= NOW + since)
        return found[int(fraction * (len(found) - 1))]
