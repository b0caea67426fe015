"""Runs `embed`: the tasks of one model that wait together are one batch."""

from __future__ import annotations

import time
from itertools import islice
from typing import NamedTuple

import msgspec

from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loaded import LoadedModel
from llmos.pipelines.kinds.base import items_of
from llmos.schemas.errors import LlmosError, ModelUnavailable
from llmos.schemas.tasks import EmbedOutput
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.batching import choose_batch
from llmos.services.worker.runners.classify import classify, mends
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    ItemEnded,
    TaskBroke,
    TaskEnded,
    TaskName,
    all_failed,
)
from llmos.services.worker.runners.models import Models

_encode = msgspec.msgpack.Encoder().encode


class _Task(NamedTuple):
    """A task that waits."""

    assignment: Assignment
    texts: list[str]
    characters: int
    """Of the longest text."""


class EmbedRunner:
    """Batches across tasks, up to `batch_texts` texts of about one length a step."""

    kinds: tuple[str, ...] = ("embed",)

    def __init__(self, models: Models, meter: Meter, batch_texts: int) -> None:
        self._models = models
        self._meter = meter
        self._batch_texts = batch_texts
        self._waiting: dict[str, dict[TaskName, _Task]] = {}
        """By model, then in order of arrival."""

    def start(self, assignment: Assignment) -> None:
        """A task joins."""
        texts = items_of(assignment.input.text)
        task = _Task(assignment, texts, max(len(text) for text in texts))
        self._waiting.setdefault(assignment.model, {})[assignment.name] = task

    def stop(self, name: TaskName) -> None:
        """A task leaves."""
        for model, tasks in list(self._waiting.items()):
            if tasks.pop(name, None) is not None and not tasks:
                del self._waiting[model]

    def busy(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    def step(self) -> list[Event]:
        """Embeds one batch of one model: the one that had no batch for longest of those that are there."""
        events: list[Event] = []
        ready: LoadedModel | None = None
        for model, tasks in list(self._waiting.items()):
            try:
                loaded = self._models.want(model, list(tasks))
                if loaded is not None and loaded.encoder is None:
                    raise ModelUnavailable(model=loaded.manifest.name, device="this device", problem="it is no encoder")
            except Exception as problem:  # noqa: BLE001  whatever loading raised is sorted in one place
                events += self._ended_by(model, classify(problem))
                continue
            ready = ready or loaded
        return events if ready is None else [*events, *self._embed(ready)]

    def _embed(self, loaded: LoadedModel) -> list[Event]:
        model = loaded.manifest.identity
        batch = self._take_batch(model)
        self._models.reserve(model)
        try:
            return [*(Began(task.assignment.name) for task in batch), *self._attempt(loaded, batch)]
        finally:
            self._models.release(model)

    def _attempt(self, loaded: LoadedModel, batch: list[_Task]) -> list[Event]:
        encoder, key = loaded.encoder, (loaded.manifest.identity, "embed")
        assert encoder is not None, "checked before the batch was taken"
        texts = [text for task in batch for text in task.texts]
        began = time.perf_counter()
        tokens = _counts(encoder, texts)
        each = iter(tokens)
        used = [self._meter.using(task.assignment.name) for task in batch]
        for task, own_use in zip(batch, used, strict=True):
            own_use.tokens_in = sum(islice(each, len(task.texts)))
        with self._meter.device_step(*key, work=sum(tokens)):
            vectors = _vectors(encoder, texts)
        seconds = time.perf_counter() - began
        for task, own_use in zip(batch, used, strict=True):
            own_use.device_seconds = seconds * len(task.texts) / len(texts)
        self._meter.tasks[key] += len(batch)
        self._meter.busy_seconds[key] += seconds
        self._meter.tokens_in[key] += sum(tokens)
        self._meter.prefill_tokens[key] += sum(tokens)
        self._meter.prefill_seconds[key] += seconds
        events: list[Event] = []
        outcomes = list(zip(vectors, tokens, strict=True))
        for task in batch:
            own, outcomes = outcomes[: len(task.texts)], outcomes[len(task.texts) :]
            events += _told(task.assignment.name, own, seconds / len(texts), loaded.precision)
        return events

    def _take_batch(self, model: str) -> list[_Task]:
        """Takes the tasks that are embedded next out of those that wait; the model goes behind the others."""
        tasks = self._waiting.pop(model)
        waiting = list(tasks.values())
        chosen = choose_batch([(len(task.texts), task.characters) for task in waiting], self._batch_texts)
        batch = [waiting[i] for i in chosen]
        for task in batch:
            del tasks[task.assignment.name]
        if tasks:
            self._waiting[model] = tasks
        return batch

    def _ended_by(self, model: str, error: LlmosError) -> list[Event]:
        tasks = self._waiting.pop(model)
        return [event for name, task in tasks.items() for event in _failed(name, len(task.texts), error)]


def _failed(name: TaskName, items: int, error: LlmosError) -> list[Event]:
    return [TaskBroke(name, error)] if mends(error) else all_failed(name, items, error)


def _told(
    name: TaskName, outcomes: list[tuple[list[float] | LlmosError, int]], seconds: float, precision: str
) -> list[Event]:
    """What became of a task's texts, `seconds` being each one's share of the time. One of which nothing came may fare
    better elsewhere; of one that failed in part only, the failed texts have their errors."""
    errors = [vector for vector, _ in outcomes if isinstance(vector, LlmosError)]
    if len(errors) == len(outcomes) and all(mends(error) for error in errors):
        return [TaskBroke(name, errors[0])]
    events: list[Event] = []
    for item, (vector, read) in enumerate(outcomes):
        if isinstance(vector, LlmosError):
            events.append(ItemEnded(name, item, b"", vector, read, 0))
        else:
            events.append(ItemEnded(name, item, _encode(EmbedOutput(embedding=vector)), None, read, 0))
    return [*events, TaskEnded(name, seconds * len(outcomes), precision)]


def _counts(encoder: Encoder, texts: list[str]) -> list[int]:
    """The tokens of each text; 0 for one that cannot be read, whose error comes when it is embedded."""
    try:
        return encoder.tokens(texts)
    except Exception:  # noqa: BLE001  the same text raises the same again, and is told of then
        return [0] * len(texts) if len(texts) == 1 else [n for text in texts for n in _counts(encoder, [text])]


def _vectors(encoder: Encoder, texts: list[str]) -> list[list[float] | LlmosError]:
    """The vector of each text, or its error: when a batch fails, each text alone shows whose fault it is."""
    try:
        return [*encoder.embed(texts)]
    except Exception as problem:  # noqa: BLE001  sorted in one place
        if len(texts) > 1:
            return [vector for text in texts for vector in _vectors(encoder, [text])]
        return [classify(problem)]
