"""Runs `embed`: the tasks of one model that wait together are one batch."""

from __future__ import annotations

import time

import msgspec

from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.residents import NoRoomNow
from llmos.pipelines.kinds.base import items_of
from llmos.schemas.errors import LlmosError, ModelUnavailable
from llmos.schemas.tasks import EmbedOutput
from llmos.services.worker.runners.base import Meter
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


class EmbedRunner:
    """Batches across tasks, up to `batch_texts` texts a step."""

    kinds: tuple[str, ...] = ("embed",)

    def __init__(self, models: Models, meter: Meter, batch_texts: int) -> None:
        self._models = models
        self._meter = meter
        self._batch_texts = batch_texts
        self._waiting: dict[TaskName, Assignment] = {}

    def start(self, assignment: Assignment) -> None:
        """A task joins."""
        self._waiting[assignment.name] = assignment

    def stop(self, name: TaskName) -> None:
        """A task leaves."""
        self._waiting.pop(name, None)

    def busy(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    def step(self) -> list[Event]:
        """Embeds one batch: the oldest task and others of its model, as many as fit."""
        batch = self._next_batch()
        identity = batch[0].model
        try:
            loaded = self._models.get(identity, [a.name for a in batch])
            encoder = loaded.encoder
            if encoder is None:
                raise ModelUnavailable(model=loaded.manifest.name, device="this device", problem="it is no encoder")
        except NoRoomNow:
            return []
        except Exception as problem:  # noqa: BLE001  whatever loading raised is sorted in one place
            return self._ended_by(batch, classify(problem))
        for assignment in batch:
            del self._waiting[assignment.name]
        return [*(Began(a.name) for a in batch), *self._attempt(encoder, batch)]

    def _attempt(self, encoder: Encoder, batch: list[Assignment]) -> list[Event]:
        texts = [text for assignment in batch for text in items_of(assignment.input.text)]
        began = time.perf_counter()
        vectors = _vectors(encoder, texts)
        tokens = encoder.tokens(texts)
        seconds = time.perf_counter() - began
        key = (batch[0].model, "embed")
        self._meter.tasks[key] += len(batch)
        self._meter.busy_seconds[key] += seconds
        self._meter.tokens_in[key] += sum(tokens)
        events: list[Event] = []
        outcomes = zip(vectors, tokens, strict=True)
        for assignment in batch:
            count = len(items_of(assignment.input.text))
            for item in range(count):
                vector, read = next(outcomes)
                error = vector if isinstance(vector, LlmosError) else None
                output = b"" if isinstance(vector, LlmosError) else _encode(EmbedOutput(embedding=vector))
                events.append(ItemEnded(assignment.name, item, output, error, read, 0))
            events.append(TaskEnded(assignment.name, seconds * count / len(texts)))
        return events

    def _next_batch(self) -> list[Assignment]:
        first = next(iter(self._waiting.values()))
        batch: list[Assignment] = []
        room = self._batch_texts
        for assignment in self._waiting.values():
            count = len(items_of(assignment.input.text))
            if assignment.model == first.model and (count <= room or not batch):
                batch.append(assignment)
                room -= count
        return batch

    def _ended_by(self, batch: list[Assignment], error: LlmosError) -> list[Event]:
        for assignment in batch:
            del self._waiting[assignment.name]
        return [event for assignment in batch for event in self._failed(assignment, error)]

    def _failed(self, assignment: Assignment, error: LlmosError) -> list[Event]:
        if mends(error):
            return [TaskBroke(assignment.name, error)]
        return all_failed(assignment.name, len(items_of(assignment.input.text)), error)


def _vectors(encoder: Encoder, texts: list[str]) -> list[list[float] | LlmosError]:
    """The vector of each text, or its error: when a batch fails, each text alone shows whose fault it is."""
    try:
        return [*encoder.embed(texts)]
    except Exception as problem:  # noqa: BLE001  sorted in one place
        if len(texts) > 1:
            return [vector for text in texts for vector in _vectors(encoder, [text])]
        return [classify(problem)]
