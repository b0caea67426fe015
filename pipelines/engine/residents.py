"""The models of one device within a budget: loaded verified beside running ones, evicted when others need the room.

Runners ask with `want` between steps and get the model once it is there; `turn`, once a round, takes over what was
loaded and carries out what `placing.place` decides of what was asked for since the turn before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.encoder import BATCH_TEXTS
from llmos.pipelines.engine.eviction import Resident, choose_evictions
from llmos.pipelines.engine.loaded import LoadedModel, LoadEnded, load_ended, measured_bytes, never_begun
from llmos.pipelines.engine.loader import Load, LoadCancelled, Loader, Opener
from llmos.pipelines.engine.loading import Plan, Sizes, plan_model
from llmos.pipelines.engine.placing import Held, Memory, Placement, Want, place
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.errors import (
    DeviceOutOfMemory,
    FailedError,
    LlmosError,
    ModelDamaged,
    ModelUnavailable,
    NeverFits,
    RefusedError,
)
from llmos.schemas.telemetry import Residency

SHORT_SECONDS = 10.0
"""How long tasks wait for memory that the budget promises and the device does not have, when nobody here uses it."""
REST_SECONDS = 30.0
"""Before a pinned model that could not be loaded is tried again."""


class ResidentModels:
    """Models on one device. For the engine thread alone, but for `residents` and `resident_bytes`."""

    def __init__(
        self,
        device: Device,
        store: ModelStore,
        budget_bytes: int,
        slots: int,
        *,
        embed_batch: int = BATCH_TEXTS,
        context_tokens: int = 0,
        cache_share: float = 0.25,
        clock: Callable[[], float] = time.time,
        opener: Opener | None = None,
    ) -> None:
        self.budget_bytes = min(budget_bytes, device.memory_bytes)
        self.wake: Callable[[], None] = _nobody
        """Called in the loader's thread when a load has ended: a `turn` is due."""
        self.report: Callable[[str, int, int], None] = _no_progress
        """Called in the loader's thread with identity, bytes read and bytes in all."""
        self._device = device
        self._store = store
        self._sizes = Sizes(slots, embed_batch, context_tokens, cache_share)
        self._clock = clock
        self._loader = Loader(device, lambda: self.wake(), opener)
        self._load: Load | None = None
        self._models: dict[str, LoadedModel] = {}
        self._plans: dict[str, tuple[Manifest, Plan]] = {}
        """Of models that are wanted or loading."""
        self._measured: dict[str, int] = {}
        """What models took when they were loaded: better than an estimate, also when they come again."""
        self._asked: dict[str, float] = {}
        """Since the last turn: when the oldest of the tasks that wait for a model came."""
        self._failed: dict[str, LlmosError] = {}
        """What ended loads at the last turn: for all that waited."""
        self._pinned: dict[str, float] = {}
        """When each was pinned."""
        self._resting: dict[str, float] = {}
        """Pinned models that could not be loaded, and when to try again."""
        self._ordered: dict[str, float] = {}
        """Loads that were asked for by order, and when."""
        self._leaving: set[str] = set()
        """To be unloaded as soon as they are idle."""
        self._short_since: dict[str, float] = {}
        self._placement = Placement()

    # What any thread may ask.

    def now(self) -> float:
        """The time that ages are told in (Unix seconds)."""
        return self._clock()

    @property
    def resident_bytes(self) -> int:
        """What the loaded models take, in bytes."""
        return sum(model.resident_bytes for model in list(self._models.values()))

    def residents(self) -> list[Residency]:
        """The loaded models, and the one that is being loaded."""
        pinned = self._pinned
        found = [model.residency(identity in pinned) for identity, model in list(self._models.items())]
        load = self._load
        if load is not None:
            found.append(
                Residency(
                    model=load.manifest.identity,
                    name=load.manifest.name,
                    state="loading",
                    tier="disk",
                    pinned=load.manifest.identity in pinned,
                    estimated_bytes=self._need_bytes(load.manifest.identity, load.plan),
                    loaded_bytes=load.done_bytes,
                    weight_bytes=load.of_bytes,
                )
            )
        return found

    # What runners ask, and do.

    def want(self, identity: str, since: float) -> LoadedModel | None:
        """The model, for tasks of which the oldest came at `since`; None: not now, ask again after the next turn.

        Raises:
            NeverFits: it is larger than the budget.
            ModelUnavailable: this node does not have it, or it is damaged, or loading it failed.
            DeviceOutOfMemory: there was no memory to load it.
        """
        model = self._models.get(identity)
        if model is None and identity in self._failed:
            raise self._failed[identity]
        if model is None:
            self._plan(identity)
        self._asked[identity] = min(since, self._asked.get(identity, inf))
        yields = identity in self._leaving or since > self._placement.yields.get(identity, inf)
        return None if yields else model

    def reserve(self, identity: str) -> LoadedModel:
        """Marks a use: the model stays until as many `release` follow. Raises `KeyError` where it is not resident."""
        model = self._models[identity]
        model.active += 1
        model.served += 1
        model.last_used_at = self._clock()
        return model

    def release(self, identity: str) -> None:
        """Ends a use. Raises `KeyError` where it is not resident, `ValueError` where it was not reserved."""
        model = self._models[identity]
        if model.active == 0:
            raise ValueError(f"model {identity} is released more often than it was reserved")
        model.active -= 1
        model.last_used_at = self._clock()

    # What operators order.

    def pin(self, identities: Iterable[str]) -> None:
        """Exactly these are loaded without being asked for, and stay."""
        now = self._clock()
        self._pinned = {identity: self._pinned.get(identity, now) for identity in identities}
        self._resting = {identity: at for identity, at in self._resting.items() if identity in self._pinned}

    def load(self, identity: str) -> None:
        """The model is loaded as soon as there is room, without a task that waits for it."""
        self._leaving.discard(identity)
        if identity not in self._models:
            self._ordered.setdefault(identity, self._clock())

    def unload(self, identity: str) -> bool:
        """Lets a model go, as soon as nobody uses it: no task joins it until then. False where it stays: it is pinned,
        or not resident. A load that nobody but an order wanted is cancelled."""
        self._ordered.pop(identity, None)
        if identity not in self._models or identity in self._pinned:
            return False
        if self._models[identity].active:
            self._leaving.add(identity)
        else:
            self._drop(identity)
        return True

    # The round.

    @property
    def in_use(self) -> bool:
        """Whether any model is reserved."""
        return any(model.active for model in self._models.values())

    @property
    def loading(self) -> str:
        """Identity of the model that is being loaded; empty: none is."""
        return self._load.manifest.identity if self._load is not None else ""

    @property
    def progress(self) -> tuple[int, int]:
        """Of the load under way: bytes read, bytes in all."""
        return (self._load.done_bytes, self._load.of_bytes) if self._load is not None else (0, 0)

    @property
    def held(self) -> Mapping[str, Held]:
        """Why wanted models are not being loaded, as of the last turn."""
        return self._placement.held

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the load under way to end; whether none is under way any more. For those who
        have nothing else to do."""
        return self._loader.wait(timeout)

    def turn(self) -> list[LoadEnded]:
        """Takes over a load that has ended, lets go what nobody asked for since the last turn, and decides what is loaded
        next."""
        ended = self._take_over()
        now = self._clock()
        for identity in [i for i in self._leaving if i not in self._models or not self._models[i].active]:
            self._leaving.discard(identity)
            if identity in self._models:
                self._drop(identity)
        wants = self._wants(now, ended)
        load = self._load
        if load is not None and load.manifest.identity not in wants:
            load.cancel()
        self._place(wants, now)
        self._asked = {}
        self._plans = {i: plan for i, plan in self._plans.items() if i in wants or i == self.loading}
        return ended

    def relieve(self) -> None:
        """Memory ran out: lets idle models go that are not pinned, and gives back what the device keeps for reuse."""
        for identity, model in list(self._models.items()):
            if not model.active and identity not in self._pinned:
                self._drop(identity)
        self._device.empty_cache()

    def abandon(self, identities: Iterable[str]) -> None:
        """Who used these broke down: nobody knows what they were left with, so they go, in use or not."""
        for identity in identities:
            if identity in self._models:
                self._drop(identity)

    def _take_over(self) -> list[LoadEnded]:
        self._failed = {}
        load = self._loader.ended()
        if load is None:
            return []
        self._load = None
        identity = load.manifest.identity
        if isinstance(load.problem, LoadCancelled):
            return []
        if load.problem is not None or load.opened is None:
            problem = self._error(load.manifest, load.problem)
            self._fail(identity, problem)
            if isinstance(problem, DeviceOutOfMemory):
                self.relieve()
            return [load_ended(load, 0, problem)]
        measured = measured_bytes(load.opened, load.plan)
        told = load_ended(load, measured, None)
        self._measured[identity] = measured
        try:
            stays = self._make_room(load.manifest, measured)  # it may have taken more than was estimated
        except NeverFits as problem:
            self._fail(identity, problem)
            return [told._replace(problem=problem)]
        if stays:
            self._models[identity] = LoadedModel.of(load, measured, self._clock())
            self._ordered.pop(identity, None)
        load.opened = None  # one that does not stay must not be kept in memory by who reads how it went
        return [told]

    def _wants(self, now: float, ended: list[LoadEnded]) -> dict[str, Want]:
        """What is to be resident and is not, by identity; what cannot be had is added to `ended`."""
        since = dict(self._asked)
        for identity, at in (*self._pinned.items(), *self._ordered.items()):
            if self._resting.get(identity, 0.0) <= now:
                since[identity] = min(at, since.get(identity, inf))
        wants: dict[str, Want] = {}
        for identity, at in since.items():
            if identity in self._models or identity in self._failed:
                continue
            try:
                _, plan = self._plan(identity)
            except LlmosError as problem:
                self._fail(identity, problem)
                ended.append(never_begun(identity, problem))
                continue
            wants[identity] = Want(identity, self._need_bytes(identity, plan), at)
        return wants

    def _place(self, wants: dict[str, Want], now: float) -> None:
        if not wants and not self._placement.held and not self._placement.yields:
            return
        residents = [self._resident(identity, model) for identity, model in self._models.items()]
        loading = None
        if self._load is not None:
            loading = Want(self.loading, self._need_bytes(self.loading, self._load.plan), 0.0)
        # of what the device has, the present models may still come to take a part
        free = self._device.free_bytes() - sum(model.ungrown_bytes for model in self._models.values())
        memory = Memory(self.budget_bytes, max(free, 0))
        self._placement = place(list(wants.values()), residents, loading, memory, now)
        self._give_up_on_short_memory(wants, now)
        for identity in self._placement.evict:
            self._drop(identity)
        if self._placement.load:
            manifest, plan = self._plans[self._placement.load]
            identity = manifest.identity
            self._load = Load(manifest, plan, lambda done, of: self.report(identity, done, of))
            self._loader.begin(self._load)

    def _give_up_on_short_memory(self, wants: dict[str, Want], now: float) -> None:
        """What waits for memory that somebody outside of this process has does not wait for ever: elsewhere there may be
        some."""
        short = {
            i: held for i, held in self._placement.held.items() if held.rule == "device_memory" and not self.in_use
        }
        self._short_since = {identity: self._short_since.get(identity, now) for identity in short}
        for identity, held in short.items():
            if now - self._short_since[identity] >= SHORT_SECONDS and identity in self._asked:
                manifest, _ = self._plans[identity]
                problem = f"{manifest.name} needs {held.need_bytes} bytes and {held.have_bytes} are free"
                self._failed[identity] = DeviceOutOfMemory(device=self._device.label, problem=problem)
                del self._short_since[identity]

    def _plan(self, identity: str) -> tuple[Manifest, Plan]:
        """Raises `ModelUnavailable`, `NeverFits`."""
        planned = self._plans.get(identity)
        if planned is None:
            manifest = self._store.by_identity(identity)
            try:
                plan = plan_model(manifest, self._device, self._sizes, self.budget_bytes)
            except ModelDamaged as problem:
                raise self._error(manifest, problem) from problem
            planned = self._plans[identity] = manifest, plan
        manifest, plan = planned
        need = self._need_bytes(identity, plan)
        if need > self.budget_bytes:
            raise NeverFits(model=manifest.name, need=need, have=self.budget_bytes)
        return planned

    def _need_bytes(self, identity: str, plan: Plan) -> int:
        return self._measured.get(identity, plan.resident_bytes)

    def _make_room(self, manifest: Manifest, need_bytes: int) -> bool:
        """Evicts for a model that was loaded and is not among the residents. Raises `NeverFits`."""
        if need_bytes > self.budget_bytes:
            raise NeverFits(model=manifest.name, need=need_bytes, have=self.budget_bytes)
        residents = [self._resident(identity, model) for identity, model in self._models.items()]
        leaving = choose_evictions(residents, need_bytes, self.budget_bytes)
        for identity in leaving or ():
            self._drop(identity)
        return leaving is not None

    def _fail(self, identity: str, problem: LlmosError) -> None:
        self._failed[identity] = problem
        self._ordered.pop(identity, None)
        self._plans.pop(identity, None)
        if identity in self._pinned:
            self._resting[identity] = self._clock() + REST_SECONDS

    def _drop(self, identity: str) -> None:
        model = self._models.pop(identity)
        model.engine = model.encoder = None  # whoever still holds it must not hold its memory

    def _error(self, manifest: Manifest, problem: Exception | None) -> LlmosError:
        if isinstance(problem, FailedError | RefusedError):
            return problem
        error = ModelUnavailable(
            model=manifest.name, device=self._device.label, problem=str(problem) or type(problem).__name__
        )
        error.__cause__ = problem
        return error

    def _resident(self, identity: str, model: LoadedModel) -> Resident:
        return model.resident(identity in self._pinned, self._asked.get(identity, inf))


def _nobody() -> None:
    """Nobody waits."""


def _no_progress(identity: str, done: int, of: int) -> None:
    """Nobody listens."""
