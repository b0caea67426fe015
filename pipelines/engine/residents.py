"""The models that stay loaded on a device within a budget: loaded verified, evicted when others need the room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.encoder import BATCH_TEXTS, Encoder
from llmos.pipelines.engine.eviction import Resident, choose_evictions
from llmos.pipelines.engine.loading import Plan, Sizes, open_model, plan_model
from llmos.pipelines.engine.weights import Progress
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.errors import ModelDamaged, ModelUnavailable, NeverFits
from llmos.schemas.telemetry import Residency


class NoRoomNow(Exception):
    """The model would fit, but not beside those in use; ask again when one of them was released."""


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A resident model: `engine` where it generates, `encoder` where it embeds; neither once it was unloaded."""

    manifest: Manifest
    engine: Engine | None
    encoder: Encoder | None
    resident_bytes: int
    load_seconds: float
    last_used_at: float
    """Unix seconds."""
    active: int = 0
    """Uses between `reserve` and `release`."""

    @property
    def residency(self) -> Residency:
        """As telemetry tells it."""
        return Residency(
            model=self.manifest.identity,
            name=self.manifest.name,
            state="resident",
            resident_bytes=self.resident_bytes,
            load_seconds=self.load_seconds,
            last_used_at=self.last_used_at,
            active=self.active,
        )


class ResidentModels:
    """Models on one device. For the engine thread alone, but for `residents`, which any thread may ask."""

    def __init__(
        self,
        device: Device,
        store: ModelStore,
        budget_bytes: int,
        slots: int,
        *,
        embed_batch: int = BATCH_TEXTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget_bytes = min(budget_bytes, device.memory_bytes)
        self._device = device
        self._store = store
        self._sizes = Sizes(slots, embed_batch)
        self._clock = clock
        self._models: dict[str, LoadedModel] = {}
        self._loading: Residency | None = None
        self._measured: dict[str, int] = {}
        """What models took when they were loaded: better than an estimate, also when they come again."""

    @property
    def resident_bytes(self) -> int:
        """What the loaded models take, in bytes."""
        return sum(model.resident_bytes for model in list(self._models.values()))

    def residents(self) -> list[Residency]:
        """The loaded models, and the one that is being loaded."""
        loading = self._loading
        return [model.residency for model in list(self._models.values())] + ([loading] if loading else [])

    def get(self, identity: str, progress: Progress | None = None) -> LoadedModel:
        """The model, loaded if it is not resident; idle ones leave for it, the least recently used first.

        `progress` is told the bytes read and the bytes in all. Reserve it before the next `get`, which may evict it.

        Raises:
            NoRoomNow: those in use leave no room.
            NeverFits: it is larger than the budget.
            ModelUnavailable: this node does not have it, or it is damaged, or loading it failed.
        """
        model = self._models.get(identity)
        if model is None:
            model = self._load(self._manifest(identity), progress)
        model.last_used_at = self._clock()
        return model

    def reserve(self, identity: str) -> LoadedModel:
        """Marks a use: the model stays until as many `release` follow. Raises `KeyError` where it is not resident."""
        model = self._models[identity]
        model.active += 1
        model.last_used_at = self._clock()
        return model

    def release(self, identity: str) -> None:
        """Ends a use. Raises `KeyError` where it is not resident, `ValueError` where it was not reserved."""
        model = self._models[identity]
        if model.active == 0:
            raise ValueError(f"model {identity} is released more often than it was reserved")
        model.active -= 1
        model.last_used_at = self._clock()

    def unload(self, identity: str) -> bool:
        """Lets an idle model go; False where it is not resident. Raises `ValueError` where it is in use."""
        model = self._models.get(identity)
        if model is None:
            return False
        if model.active:
            raise ValueError(f"model {identity} is in use")
        del self._models[identity]
        model.engine = model.encoder = None  # whoever still holds it must not hold its memory
        return True

    def _manifest(self, identity: str) -> Manifest:
        return self._store.by_identity(identity)

    def _load(self, manifest: Manifest, progress: Progress | None) -> LoadedModel:
        plan = self._plan(manifest)
        self._make_room(manifest, self._measured.get(manifest.identity, plan.resident_bytes))
        self._loading = Residency(model=manifest.identity, name=manifest.name, state="loading")
        try:
            model = self._open(manifest, plan, progress)
        finally:
            self._loading = None
        self._measured[manifest.identity] = model.resident_bytes
        self._make_room(manifest, model.resident_bytes)  # it may have taken more than was estimated
        self._models[manifest.identity] = model
        return model

    def _plan(self, manifest: Manifest) -> Plan:
        try:
            return plan_model(manifest, self._device, self._sizes, self.budget_bytes)
        except ModelDamaged as problem:
            raise self._unavailable(manifest, problem) from problem

    def _make_room(self, manifest: Manifest, need_bytes: int) -> None:
        """Evicts for a model that is not among the residents. Raises `NeverFits`, `NoRoomNow`."""
        if need_bytes > self.budget_bytes:
            raise NeverFits(model=manifest.name, need=need_bytes, have=self.budget_bytes)
        residents = [
            Resident(identity, model.resident_bytes, model.last_used_at, model.active)
            for identity, model in self._models.items()
        ]
        leaving = choose_evictions(residents, need_bytes, self.budget_bytes)
        if leaving is None:
            raise NoRoomNow(f"{manifest.name} needs {need_bytes} bytes beside the models in use")
        for identity in leaving:
            self.unload(identity)

    def _open(self, manifest: Manifest, plan: Plan, progress: Progress | None) -> LoadedModel:
        started = time.perf_counter()
        try:
            opened = open_model(manifest, self._device, plan.sizes, progress)
        except (ModelDamaged, MemoryError, OSError, RuntimeError) as problem:
            raise self._unavailable(manifest, problem) from problem
        return LoadedModel(
            manifest=manifest,
            engine=opened if isinstance(opened, Engine) else None,
            encoder=opened if isinstance(opened, Encoder) else None,
            resident_bytes=opened.resident_bytes + plan.activation_bytes,
            load_seconds=time.perf_counter() - started,
            last_used_at=self._clock(),
        )

    def _unavailable(self, manifest: Manifest, problem: BaseException) -> ModelUnavailable:
        return ModelUnavailable(
            model=manifest.name, device=self._device.label, problem=str(problem) or type(problem).__name__
        )
