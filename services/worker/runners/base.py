"""The interface of a runner, and the measurements all of them keep. Thread-confined: the engine thread alone calls it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from llmos.schemas.job import Usage
from llmos.schemas.telemetry import Served
from llmos.services.worker.runners.events import Assignment, Event, TaskName
from llmos.services.worker.runners.step_times import StepTimes


class Runner(Protocol):
    """Runs tasks of some kinds, step by step; tasks join and leave between steps."""

    kinds: tuple[str, ...]

    def start(self, assignment: Assignment) -> None:
        """A task joins; it may wait inside until there is room."""

    def stop(self, name: TaskName) -> None:
        """A task leaves without an event; unknown names are nothing to it."""

    def busy(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> list[Event]:
        """Does a bounded piece of work. Never raises for one task's sake: that is an event."""


Measured = tuple[str, str]
"""Model (identity; empty where the kind needs none) and kind."""


@dataclass(slots=True)
class Used:
    """What an attempt has used so far: counters, written by the engine thread, read by the event loop."""

    tokens_in: int = 0
    """Of prompts whose prefill has begun."""
    tokens_out: int = 0
    device_seconds: float = 0.0


def _seconds() -> defaultdict[Measured, float]:
    return defaultdict(float)


@dataclass(slots=True)
class Meter:
    """What the device served since the process started, by (model, kind). Read by the event loop, written here."""

    clock: Callable[[], float] = time.monotonic
    tasks: Counter[Measured] = field(default_factory=Counter)
    busy_seconds: defaultdict[Measured, float] = field(default_factory=_seconds)
    tokens_in: Counter[Measured] = field(default_factory=Counter)
    tokens_out: Counter[Measured] = field(default_factory=Counter)
    prefill_tokens: Counter[Measured] = field(default_factory=Counter)
    """Prompt tokens, or tokens of texts to embed, that were computed; those of unfinished tasks included."""
    prefill_seconds: defaultdict[Measured, float] = field(default_factory=_seconds)
    decode_steps: Counter[Measured] = field(default_factory=Counter)
    decode_tokens: Counter[Measured] = field(default_factory=Counter)
    """Sum of the batch over all decode steps."""
    decode_seconds: defaultdict[Measured, float] = field(default_factory=_seconds)
    wall_busy_seconds: float = 0.0
    """With work in hand; loading is not service, and not counted."""
    loading_seconds: float = 0.0
    """In which a model was being loaded, beside whatever else ran."""
    idle_seconds: float = 0.0
    """Without any work."""
    steps: int = 0
    started: int = 0
    """Tasks that began to run."""
    waited_seconds: float = 0.0
    """Sum over them of the time between arrival and beginning; waiting for a model is not counted."""
    step_began: float = 0.0
    """When the step that runs now began, by `clock`; 0: none runs."""
    step_limit_seconds: float = 0.0
    """A step that runs for longer is hung, by what such steps took so far; 0: unknown."""
    step_times: StepTimes = field(default_factory=StepTimes)
    used: dict[TaskName, Used] = field(default_factory=dict)
    """By attempt, of those that the runners have."""

    def using(self, name: TaskName) -> Used:
        """Counters for an attempt that begins."""
        used = self.used[name] = Used()
        return used

    def let_go(self, name: TaskName) -> Usage:
        """The attempt is over: what it used, whose counters are dropped."""
        used = self.used.pop(name, None)
        return (
            Usage()
            if used is None
            else Usage(tokens_in=used.tokens_in, tokens_out=used.tokens_out, device_seconds=used.device_seconds)
        )

    @property
    def step_seconds(self) -> float:
        """How long the step that runs now has been running; 0: none runs."""
        began = self.step_began
        return max(self.clock() - began, 0.0) if began else 0.0

    def served(self) -> list[Served]:
        """All of it, as heartbeats tell it; from any thread."""
        return [
            Served(
                model=key[0],
                kind=key[1],
                tasks=self.tasks.get(key, 0),
                busy_seconds=self.busy_seconds.get(key, 0.0),
                tokens_in=self.tokens_in.get(key, 0),
                tokens_out=self.tokens_out.get(key, 0),
                prefill_tokens=self.prefill_tokens.get(key, 0),
                prefill_seconds=self.prefill_seconds.get(key, 0.0),
                decode_steps=self.decode_steps.get(key, 0),
                decode_tokens=self.decode_tokens.get(key, 0),
                decode_seconds=self.decode_seconds.get(key, 0.0),
            )
            for key in dict.fromkeys([*self.tasks, *self.prefill_tokens])
        ]

    @contextmanager
    def device_step(self, model: str, kind: str, work: float) -> Iterator[None]:
        """Put around what the device does for one model: it is limited by what such steps took so far.

        `work`: how much is to be done, in any unit that is about proportional to the time it takes (tokens to be
        computed: of prompts, and one for each sequence that decodes), at least 1.
        """
        key = (model, kind)
        self.step_limit_seconds = self.step_times.limit(key, work)
        began = self.step_began = self.clock()
        try:
            yield
        finally:
            now = self.clock()
            self.step_times.took(key, work, now - began)
            self.step_began, self.step_limit_seconds = now, 0.0
