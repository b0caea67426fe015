"""Runs `generate`: sequences of one model step together; they join as slots become free and leave when they end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import msgspec

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.residents import NoRoomNow
from llmos.pipelines.engine.sequences import Event as Step
from llmos.pipelines.kinds.base import items_of
from llmos.schemas.errors import EngineFailed, LlmosError, ModelUnavailable
from llmos.schemas.tasks import GenerateOutput
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.classify import classify, mends
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    ItemEnded,
    Produced,
    TaskBroke,
    TaskEnded,
    TaskName,
)
from llmos.services.worker.runners.models import Models

_encode = msgspec.msgpack.Encoder().encode
_Item = tuple[TaskName, int]


@dataclass(slots=True)
class _Running:
    """A task whose items are (partly) in the engine."""

    assignment: Assignment
    open_items: int
    device_seconds: float = 0.0
    texts: dict[int, list[str]] = field(default_factory=dict)
    tokens: Counter[int] = field(default_factory=Counter)
    prompt_tokens: Counter[int] = field(default_factory=Counter)


class GenerateRunner:
    """One running batch per model."""

    kinds: tuple[str, ...] = ("generate",)

    def __init__(self, models: Models, meter: Meter) -> None:
        self._models = models
        self._meter = meter
        self._waiting: dict[_Item, Assignment] = {}
        """Items without a slot, in order of arrival."""
        self._running: dict[TaskName, _Running] = {}
        self._engines: dict[str, Engine] = {}
        """Models with sequences in their batch; reserved for as long."""

    def start(self, assignment: Assignment) -> None:
        """A task joins; its items wait for slots."""
        prompts = items_of(assignment.input.prompt)
        self._running[assignment.name] = _Running(assignment, len(prompts))
        for item in range(len(prompts)):
            self._waiting[assignment.name, item] = assignment

    def stop(self, name: TaskName) -> None:
        """A task leaves, whatever it was doing."""
        running = self._running.pop(name, None)
        if running is None:
            return
        for item in range(len(items_of(running.assignment.input.prompt))):
            self._waiting.pop((name, item), None)
            engine = self._engines.get(running.assignment.model)
            if engine is not None:
                engine.remove((name, item))
        self._release_idle()

    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._running)

    def step(self) -> list[Event]:
        """Lets waiting items join, then one step of every model's batch."""
        events = self._join()
        for model, engine in list(self._engines.items()):
            events += self._step(model, engine)
        self._release_idle()
        return events

    def _join(self) -> list[Event]:
        events: list[Event] = []
        full: set[str] = set()
        for (name, item), assignment in list(self._waiting.items()):
            model = assignment.model
            if model in full or (name, item) not in self._waiting:
                continue
            try:
                engine = self._engine(model)
            except NoRoomNow:
                full.add(model)
                continue
            except Exception as problem:  # noqa: BLE001  sorted in one place
                events += self._end_whole(name, classify(problem))
                continue
            if not engine.free_slots:
                full.add(model)
                continue
            events += self._add(engine, name, item, assignment)
        return events

    def _engine(self, model: str) -> Engine:
        engine = self._engines.get(model)
        if engine is None:
            names = [name for (name, _), waiting in self._waiting.items() if waiting.model == model]
            loaded = self._models.get(model, names)
            if loaded.engine is None:
                raise ModelUnavailable(model=loaded.manifest.name, device="this device", problem="it does not generate")
            self._models.residents.reserve(model)
            engine = self._engines[model] = loaded.engine
        return engine

    def _add(self, engine: Engine, name: TaskName, item: int, assignment: Assignment) -> list[Event]:
        del self._waiting[name, item]
        running = self._running[name]
        events: list[Event] = [] if running.texts else [Began(name)]
        running.texts[item] = []
        try:
            prompt = items_of(assignment.input.prompt)[item]
            running.prompt_tokens[item] = engine.add((name, item), prompt, assignment.input)
        except Exception as problem:  # noqa: BLE001  sorted in one place
            return [*events, *self._end_item(name, item, classify(problem))]
        return events

    def _step(self, model: str, engine: Engine) -> list[Event]:
        keys = engine.keys()
        if not keys:
            return []
        began = time.perf_counter()
        steps = engine.step()
        seconds = time.perf_counter() - began
        self._meter.busy_seconds[model, "generate"] += seconds
        for key in keys:
            running = self._running.get(cast("_Item", key)[0])
            if running is not None:
                running.device_seconds += seconds / len(keys)
        return [event for step in steps for event in self._told(step)]

    def _told(self, step: Step) -> list[Event]:
        name, item = cast("_Item", step.key)
        running = self._running.get(name)
        if running is None:
            return []
        if step.error is not None:
            return self._end_item(name, item, EngineFailed(problem=step.error[:500]))
        running.texts[item].append(step.text)
        running.tokens[item] += step.tokens
        events: list[Event] = [Produced(name, item, step.text, step.tokens, step.first_token, step.finish)]
        if not step.finish:
            return events
        output = GenerateOutput(text="".join(running.texts[item]), finish=step.finish, tokens=running.tokens[item])
        return [*events, *self._end_item(name, item, None, _encode(output))]

    def _end_item(self, name: TaskName, item: int, error: LlmosError | None, output: bytes = b"") -> list[Event]:
        running = self._running[name]
        running.open_items -= 1
        tokens_in, tokens_out = running.prompt_tokens[item], running.tokens[item]
        events: list[Event] = [ItemEnded(name, item, output, error, tokens_in, tokens_out)]
        if running.open_items == 0:
            del self._running[name]
            key = (running.assignment.model, "generate")
            self._meter.tasks[key] += 1
            self._meter.tokens_in[key] += running.prompt_tokens.total()
            self._meter.tokens_out[key] += running.tokens.total()
            events.append(TaskEnded(name, running.device_seconds))
        return events

    def _end_whole(self, name: TaskName, error: LlmosError) -> list[Event]:
        """The model cannot be had: nothing of the task can run here."""
        count = len(items_of(self._running[name].assignment.input.prompt))
        if mends(error):
            self.stop(name)
            return [TaskBroke(name, error)]
        events: list[Event] = []
        for item in range(count):
            if self._waiting.pop((name, item), None) is not None:
                events += self._end_item(name, item, error)
        return events

    def _release_idle(self) -> None:
        for model, engine in list(self._engines.items()):
            if not engine.active:
                del self._engines[model]
                self._models.residents.release(model)
