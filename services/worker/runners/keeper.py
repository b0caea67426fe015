"""Keeps the device's models for all runners: who waits for which, what the device tells of it, once a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from llmos.infra.telemetry.metrics import (
    LOAD_ESTIMATE_ERROR,
    LOAD_SECONDS,
    LOADS,
    MODEL_WAITS,
    counter,
    histogram,
)
from llmos.pipelines.engine.loaded import LoadedModel, LoadEnded
from llmos.pipelines.engine.placing import Held
from llmos.pipelines.engine.residents import ResidentModels
from llmos.schemas.control import ModelOrder
from llmos.schemas.errors import ModelDamaged
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Event, Loading, ModelsChanged, Pins, TaskName, Waiting

log = structlog.get_logger()

TELL_SECONDS = 0.1
"""Between two words on a load's progress."""
SAY_AGAIN_SECONDS = 1.0
"""Between two words on what tasks wait for, while that only changes in its numbers."""
_TURN = Held("turn", 0, 0)
_LOADING = Held("", 0, 0)


class _Told(NamedTuple):
    """What those that wait for a model were told last."""

    at: float
    why: Held
    names: frozenset[TaskName]


class ModelKeeper:
    """For the engine thread alone. `turn` is called once a round, before the runners step."""

    def __init__(
        self,
        residents: ResidentModels,
        meter: Meter,
        tell: Callable[[Event], None],
        *,
        device: str = "",
        damaged: Callable[[str, ModelDamaged], None] | None = None,
    ) -> None:
        """`tell` is called in the loader's thread; `damaged`, with an identity, in this one."""
        self.residents = residents
        self._meter = meter
        self._tell = tell
        self._device = device
        self._damaged = damaged
        self._since: dict[TaskName, float] = {}
        """When each task was first asked for, of those asked for in this round and the last."""
        self._asked: set[TaskName] = set()
        self._waiting: dict[str, dict[TaskName, None]] = {}
        """Who got no model in this round, by model."""
        self._blocked: dict[TaskName, float] = {}
        self._excused: dict[TaskName, float] = {}
        self._told: dict[str, _Told] = {}
        self._loading: tuple[TaskName, ...] = ()
        """Who waits for the load under way; read by the loader's thread."""
        self._progress_at = 0.0
        self._shown: Sequence[tuple[str, str, bool]] = ()
        self._load_began = 0.0
        residents.report = self._report

    def want(self, identity: str, names: Sequence[TaskName]) -> LoadedModel | None:
        """See `Models.want`."""
        now = self.residents.now()
        since = min((self._since.setdefault(name, now) for name in names), default=now)
        self._asked.update(names)
        model = self.residents.want(identity, since)
        if model is None:
            self._waiting.setdefault(identity, {}).update(dict.fromkeys(names))
            for name in names:
                self._blocked.setdefault(name, now)
            return None
        for name in names:
            blocked = self._blocked.pop(name, None)
            if blocked is not None:
                self._excused[name] = self._excused.get(name, 0.0) + now - blocked
        return model

    def excused_seconds(self, name: TaskName) -> float:
        """How long the task waited for its model, and not for its turn on it; asked once, when it begins."""
        return self._excused.pop(name, 0.0)

    def forget(self, name: TaskName) -> None:
        """The task has left."""
        for table in (self._since, self._blocked, self._excused):
            table.pop(name, None)

    def order(self, order: ModelOrder | Pins) -> None:
        """Carries out an operator's wish: what is pinned, or one `load` or `unload`."""
        if isinstance(order, Pins):
            self.residents.pin(order.identities)
        elif order.what == "load":
            self.residents.load(order.identity)
        elif order.what == "unload":
            self.residents.unload(order.identity)

    def turn(self) -> list[Event]:
        """Takes over loads, begins the next one; what there is to tell of that."""
        before = self.residents.loading
        for ended in self.residents.turn():
            self._ended(ended)
        now = self.residents.now()
        loading = self.residents.loading
        if loading and loading != before:
            self._load_began = now
            self._meter.step_times.forget(loading)
        if before and loading != before:
            self._meter.loading_seconds += now - self._load_began
        events = self._words(now, loading)
        shown = tuple((r.model, r.state, r.pinned) for r in self.residents.residents())
        if shown != self._shown:
            self._shown = shown
            events.append(ModelsChanged())
        gone = [name for name in self._since if name not in self._asked]
        for name in gone:
            del self._since[name]
        self._asked = set()
        self._waiting = {}
        return events

    def _words(self, now: float, loading: str) -> list[Event]:
        """What those that wait are told: at once when it changes, and again once a second."""
        events: list[Event] = []
        told: dict[str, _Told] = {}
        self._loading = tuple(self._waiting.get(loading, ()))
        for identity, waiting in self._waiting.items():
            why = _LOADING if identity == loading else self.residents.held.get(identity, _TURN)
            names = tuple(waiting)
            before = self._told.get(identity)
            news = (
                names
                if before is None or _is_news(before, why, now)
                else tuple(n for n in names if n not in before.names)
            )
            if before is not None and not news:
                told[identity] = before
                continue
            told[identity] = _Told(now, why, frozenset(waiting))
            if identity == loading:
                events.append(Loading(news, identity, *self.residents.progress))
            else:
                counter(MODEL_WAITS, self._device, why.rule).inc(len(news))
                events.append(Waiting(news, identity, why.rule, why.need_bytes, why.have_bytes))
        self._told = told
        return events

    def _report(self, identity: str, done: int, of: int) -> None:
        """In the loader's thread: what is read so far."""
        now = self._meter.clock()
        if self._loading and (now - self._progress_at >= TELL_SECONDS or done == of):
            self._progress_at = now
            self._tell(Loading(self._loading, identity, done, of))

    def _ended(self, ended: LoadEnded) -> None:
        if ended.damage is not None and self._damaged is not None:
            self._damaged(ended.identity, ended.damage)
        if ended.problem is not None:
            counter(LOADS, self._device, ended.problem.code).inc()
            log.warning(
                "model_not_loaded",
                model=ended.name or ended.identity,
                code=ended.problem.code,
                error=str(ended.problem),
            )
            return
        error = (ended.estimated_bytes - ended.resident_bytes) / max(ended.resident_bytes, 1)
        LOAD_ESTIMATE_ERROR.labels(self._device).set(error)
        histogram(LOAD_SECONDS, self._device).observe(ended.seconds)
        counter(LOADS, self._device, "loaded").inc()
        log.info(
            "model_loaded",
            model=ended.name,
            identity=ended.identity,
            seconds=round(ended.seconds, 3),
            estimated_bytes=ended.estimated_bytes,
            resident_bytes=ended.resident_bytes,
            gained_bytes=ended.gained_bytes,
        )


def _is_news(before: _Told, why: Held, now: float) -> bool:
    """Whether those that were told before are told again: another rule at once, other numbers after a while."""
    return before.why.rule != why.rule or (before.why != why and now - before.at >= SAY_AGAIN_SECONDS)
