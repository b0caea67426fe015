"""Settles events: what they mean for the tasks held, as records to send. Pure but for the tasks it marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmos.infra.crypto.channels import EventBody
from llmos.schemas.base import Message
from llmos.schemas.job import Head, Task, Times, Usage
from llmos.schemas.partials import Outcome
from llmos.schemas.stream import State, Tokens
from llmos.schemas.telemetry import Progress, TaskFailed
from llmos.services.worker.held import HeldTask, HeldTasks
from llmos.services.worker.runners.events import (
    Began,
    Event,
    ItemEnded,
    Loading,
    ModelsChanged,
    Produced,
    TaskBroke,
    TaskEnded,
    TaskExpired,
    TaskName,
    TaskStopped,
    Waiting,
)
from llmos.services.worker.sealing import OutputSeals
from llmos.services.worker.telling import told


@dataclass(slots=True)
class Settled:
    """Records to send, in this order: what clients hear, outcomes, then what the scheduler hears."""

    stream: list[tuple[Head, int, Message]] = field(default_factory=list)
    """Head, partition, event."""
    outcomes: list[Outcome] = field(default_factory=list)
    service_seconds: list[float] = field(default_factory=list)
    """Of each outcome."""
    failed: list[TaskFailed] = field(default_factory=list)
    expired: list[HeldTask] = field(default_factory=list)
    """The scheduler answers them."""
    stopped: list[Progress] = field(default_factory=list)
    """What attempts used that were stopped before their end."""


class Settler:
    """Settles the events of one worker."""

    def __init__(self, held: HeldTasks, device: str, incarnation: int) -> None:
        self._held = held
        self._device = device
        self._incarnation = incarnation
        self.seals = OutputSeals()

    def settle(self, events: Sequence[Event], now: float) -> Settled:
        """What `events` bring; those of tasks that are no longer held bring nothing."""
        settled = Settled()
        for event in events:
            if isinstance(event, Loading | Waiting):
                for name in event.names:
                    held = self._held.get(name)
                    if held is not None and not held.running:
                        self._state(settled, held, now, **_waits_for(event))
                continue
            if isinstance(event, ModelsChanged):
                continue  # heartbeats tell of it
            if isinstance(event, TaskStopped | TaskExpired):
                _used(settled, event.name, event.used)
            held = self._held.get(event.name)
            if held is not None:
                self._settle(settled, held, event, now)
        return settled

    def _settle(self, settled: Settled, held: HeldTask, event: Event, now: float) -> None:
        if isinstance(event, Began):
            held.running, held.started_at = True, now
            self._state(settled, held, now, state="running")
        elif isinstance(event, Produced):
            held.first_output_at = held.first_output_at or now
            if held.work.head.events == "tokens":
                self._tokens(settled, held, event, now)
        elif isinstance(event, ItemEnded):
            held.items.append(self.seals.item(held, event, now))
        elif isinstance(event, TaskEnded):
            self._held.drop(held.name)
            settled.outcomes.append(self._outcome(held, event, now))
            settled.service_seconds.append(event.device_seconds)
        elif isinstance(event, TaskExpired):
            self._held.drop(held.name)
            settled.expired.append(held)
        elif isinstance(event, TaskBroke):
            self._held.drop(held.name)
            settled.failed.append(
                TaskFailed(
                    device=self._device,
                    incarnation=self._incarnation,
                    task=held.work.task,
                    error=told(event.error, held.work.head),
                    usage=event.used,
                )
            )

    def _tokens(self, settled: Settled, held: HeldTask, event: Produced, now: float) -> None:
        task, head = held.work.task, held.work.head
        index = held.work.part.first_item + event.item
        sequence = held.sequences.get(index, 0)
        held.sequences[index] = sequence + 1
        message = Tokens(
            job_id=head.job_id,
            request_id=head.request_id,
            origin=head.origin,
            partition=task.partition,
            s=task.s,
            epoch=task.epoch,
            source=self._device[:64],
            sequence=sequence,
            output_index=index,
            part=task.part,
        )
        body = EventBody(event.text, event.first_token, event.tokens, event.finish, 0)
        whole = self.seals.tokens(held, message, body, now)
        if whole is not None:
            settled.stream.append((head, task.partition, whole))

    def _state(self, settled: Settled, held: HeldTask, now: float, **said: Any) -> None:
        task, head = held.work.task, held.work.head
        if head.events == "none":
            return
        message = State(
            job_id=head.job_id,
            request_id=head.request_id,
            origin=head.origin,
            partition=task.partition,
            s=task.s,
            epoch=task.epoch,
            source=self._device[:64],
            sequence=held.states,
            at=now,
            device=self._device,
            **said,
        )
        held.states += 1
        settled.stream.append((head, task.partition, message))

    def _outcome(self, held: HeldTask, event: TaskEnded, now: float) -> Outcome:
        items = sorted(held.items, key=lambda item: item.output_index)
        head = held.work.head
        return Outcome(
            task=held.work.task,
            # the reply key has done its work, and a hybrid one takes more than all else in a head
            head=msgspec.structs.replace(head, reply_key=b"") if head.reply_key else head,
            device=self._device,
            items=items,
            usage=Usage(
                tokens_in=sum(item.tokens_in for item in items),
                tokens_out=sum(item.tokens_out for item in items),
                device_seconds=event.device_seconds,
            ),
            times=Times(
                dispatched_at=held.work.dispatched_at,
                received_at=held.received_at,
                started_at=held.started_at,
                first_output_at=held.first_output_at or now,
                finished_at=now,
            ),
            precision=event.precision,
        )


def _used(settled: Settled, name: TaskName, used: Usage) -> None:
    """The last word on an attempt, if it used anything; it may have left what is held already."""
    if used != Usage():
        settled.stopped.append(Progress(Task(*name), used.tokens_in, used.tokens_out, used.device_seconds))


def _waits_for(event: Loading | Waiting) -> dict[str, Any]:
    """What a client is told of a task that waits for a model."""
    if isinstance(event, Loading):
        return {"state": "loading", "done": event.done, "of": event.of}
    return {"state": "waiting", "rule": event.rule, "need": event.need, "have": event.have}
