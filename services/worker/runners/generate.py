"""Runs `generate`: sequences of one model step together; they join as there is room for them and leave when they end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast

import msgspec

from llmos.pipelines.engine.decoder import Engine, Opening, Statistics
from llmos.pipelines.engine.sequences import Event as Step
from llmos.pipelines.kinds.generate import prompts_of
from llmos.schemas.errors import LlmosError, ModelUnavailable
from llmos.schemas.tasks import GenerateInput, GenerateOutput, TokenLogprob
from llmos.services.worker.runners.base import Meter, Used
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

PASSING_SECONDS = 2.0
"""For so long smaller sequences may go before one that there is no memory for; then they wait until it is in."""

_encode = msgspec.msgpack.Encoder().encode
_Item = tuple[TaskName, int]


@dataclass(slots=True)
class _Output:
    """What an item has so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(slots=True)
class _Task:
    """A task whose items wait or are in the engine; item i·n + k is the k-th output of prompt i."""

    assignment: Assignment
    waiting: list[int]
    """Items that are not in yet, in order."""
    open_items: int
    used: Used
    openings: dict[int, Opening] = field(default_factory=dict)
    """By prompt; of those whose items are next."""
    outputs: defaultdict[int, _Output] = field(default_factory=lambda: defaultdict(_Output))
    began: bool = False
    blocked_at: float | None = None
    """Since when there is no memory for its next item, by the meter's clock."""
    precision: str = ""
    """Of its model, once that is there."""

    @property
    def name(self) -> TaskName:
        return self.assignment.name

    @property
    def request(self) -> GenerateInput:
        request: GenerateInput = self.assignment.input
        return request


class GenerateRunner:
    """One running batch per model."""

    kinds: tuple[str, ...] = ("generate",)

    def __init__(self, models: Models, meter: Meter) -> None:
        self._models = models
        self._meter = meter
        self._tasks: dict[TaskName, _Task] = {}
        """In order of arrival."""
        self._engines: dict[str, Engine] = {}
        """Models with sequences in their batch; reserved for as long."""

    def start(self, assignment: Assignment) -> None:
        """A task joins; its items wait for room."""
        items = len(prompts_of(assignment.input)) * assignment.input.n
        self._tasks[assignment.name] = _Task(assignment, list(range(items)), items, self._meter.using(assignment.name))

    def stop(self, name: TaskName) -> None:
        """A task leaves, whatever it was doing."""
        self._drop(name)
        self._release_idle()

    def _drop(self, name: TaskName) -> None:
        """A task leaves; its engine stays reserved until the end of the step, for others may be about to join it."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        engine = self._engines.get(task.assignment.model)
        if engine is not None:
            for key in tuple(engine.keys()):
                if cast("_Item", key)[0] == name:
                    engine.remove(key)

    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._tasks)

    def step(self) -> list[Event]:
        """Lets waiting items join, then one step of every model's batch."""
        waiting: dict[str, list[_Task]] = {}
        for task in self._tasks.values():
            if task.waiting:
                waiting.setdefault(task.assignment.model, []).append(task)
        events = [event for model, tasks in waiting.items() for event in self._join(model, tasks)]
        for model, engine in list(self._engines.items()):
            events += self._step(model, engine)
        self._release_idle()
        return events

    def _join(self, model: str, tasks: list[_Task]) -> list[Event]:
        """Tasks of one model join as far as there is room: in order of arrival, but where there is no memory for one,
        smaller ones may go before it for a bounded time."""
        try:
            engine = self._engine(model, [task.name for task in tasks])
        except Exception as problem:  # noqa: BLE001  sorted in one place
            error = classify(problem)
            return [event for task in tasks for event in self._end_whole(task, error)]
        if engine is None:
            return []
        events: list[Event] = []
        now = self._meter.clock()
        for task in tasks:
            if not engine.free_slots:
                break
            events += self._join_items(engine, task)
            if not task.waiting or task.name not in self._tasks or not engine.free_slots:
                task.blocked_at = None
                continue
            task.blocked_at = now if task.blocked_at is None else task.blocked_at
            if now - task.blocked_at >= PASSING_SECONDS:
                break
        return events

    def _engine(self, model: str, names: list[TaskName]) -> Engine | None:
        """The model's engine, reserved; None while it is not to be had, or takes no more tasks for now."""
        loaded = self._models.want(model, names)
        if loaded is None:
            return None
        for name in names:
            self._tasks[name].precision = loaded.precision
        if loaded.engine is None:
            raise ModelUnavailable(model=loaded.manifest.name, device="this device", problem="it does not generate")
        if model not in self._engines:
            self._models.reserve(model)
            self._engines[model] = loaded.engine
        return self._engines[model]

    def _join_items(self, engine: Engine, task: _Task) -> list[Event]:
        """The next items of a task, as many as there is room for now."""
        events: list[Event] = []
        while task.waiting and task.name in self._tasks:
            item = task.waiting[0]
            prompt, choice = divmod(item, task.request.n)
            try:
                opening = self._opening(engine, task, prompt)
                if not engine.may_add(opening, task.request):
                    break
                tokens = engine.add((task.name, item), opening, task.request, choice)
            except Exception as problem:  # noqa: BLE001  sorted in one place
                del task.waiting[0]
                events += [*self._begin(task), *self._fail_item(task, item, classify(problem))]
                continue
            del task.waiting[0]
            task.outputs[item].tokens_in = 0 if choice else tokens  # they were read once
            task.used.tokens_in += task.outputs[item].tokens_in
            if choice == task.request.n - 1:
                del task.openings[prompt]
            events += self._begin(task)
        return events

    def _opening(self, engine: Engine, task: _Task, prompt: int) -> Opening:
        """The tokens of a prompt that fits. Raises what the engine raises for one that cannot be used or never fits."""
        opening = task.openings.get(prompt)
        if opening is None:
            opening = engine.open(prompts_of(task.request)[prompt], task.request.n)
            engine.check(opening, task.request)
            task.openings[prompt] = opening
        return opening

    def _begin(self, task: _Task) -> list[Event]:
        if task.began:
            return []
        task.began = True
        return [Began(task.name)]

    def _step(self, model: str, engine: Engine) -> list[Event]:
        keys = engine.keys()
        if not keys:
            return []
        before, began = engine.statistics(), self._meter.clock()
        with self._meter.device_step(model, "generate", engine.work):
            steps = engine.step()
        seconds = self._meter.clock() - began
        self._measure(model, before, engine.statistics(), seconds)
        for key in keys:
            task = self._tasks.get(cast("_Item", key)[0])
            if task is not None:
                task.used.device_seconds += seconds / len(keys)
        return [event for step in steps for event in self._told(step)]

    def _measure(self, model: str, before: Statistics, after: Statistics, seconds: float) -> None:
        key, meter = (model, "generate"), self._meter
        meter.busy_seconds[key] += seconds
        meter.prefill_tokens[key] += after.prefill_tokens - before.prefill_tokens
        meter.prefill_seconds[key] += after.prefill_seconds - before.prefill_seconds
        meter.decode_steps[key] += after.decode_steps - before.decode_steps
        meter.decode_tokens[key] += after.decode_tokens - before.decode_tokens
        meter.decode_seconds[key] += after.decode_seconds - before.decode_seconds

    def _told(self, step: Step) -> list[Event]:
        name, item = cast("_Item", step.key)
        task = self._tasks.get(name)
        if task is None:
            return []
        if step.error is not None:
            return self._fail_item(task, item, step.error)
        output = task.outputs[item]
        output.texts.append(step.text)
        output.logprobs += step.logprobs
        output.tokens_out += step.tokens
        task.used.tokens_out += step.tokens
        events: list[Event] = [Produced(name, item, step.text, step.tokens, step.first_token, step.finish)]
        if not step.finish:
            return events
        whole = GenerateOutput(
            text="".join(output.texts), finish=step.finish, tokens=output.tokens_out, logprobs=output.logprobs
        )
        return [*events, *self._end_item(task, item, None, _encode(whole))]

    def _fail_item(self, task: _Task, item: int, error: LlmosError) -> list[Event]:
        """The item's own end, or the attempt's where another one may mend it."""
        if mends(error):
            self._drop(task.name)
            return [TaskBroke(task.name, error)]
        return self._end_item(task, item, error)

    def _end_item(self, task: _Task, item: int, error: LlmosError | None, result: bytes = b"") -> list[Event]:
        task.open_items -= 1
        output = task.outputs[item]
        output.texts, output.logprobs = [], []  # they are in the result
        events: list[Event] = [ItemEnded(task.name, item, result, error, output.tokens_in, output.tokens_out)]
        if task.open_items == 0:
            del self._tasks[task.name]
            key = (task.assignment.model, "generate")
            self._meter.tasks[key] += 1
            self._meter.tokens_in[key] += sum(one.tokens_in for one in task.outputs.values())
            self._meter.tokens_out[key] += sum(one.tokens_out for one in task.outputs.values())
            events.append(TaskEnded(task.name, task.used.device_seconds, task.precision))
        return events

    def _end_whole(self, task: _Task, error: LlmosError) -> list[Event]:
        """The model cannot be had: nothing of the task can run here."""
        if mends(error):
            self._drop(task.name)
            return [TaskBroke(task.name, error)]
        waiting, task.waiting = task.waiting, []
        return [event for item in waiting for event in self._end_item(task, item, error)]

    def _release_idle(self) -> None:
        for model, engine in list(self._engines.items()):
            if not engine.active:
                del self._engines[model]
                self._models.release(model)
