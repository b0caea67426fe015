"""A model that is resident, and how a load ended: the values that `residents` keeps and tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.eviction import Resident
from llmos.pipelines.engine.loader import Load, Opened
from llmos.pipelines.engine.loading import Plan
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import LlmosError, ModelDamaged
from llmos.schemas.telemetry import Residency

LEAST_TURN_SECONDS = 2.0
MOST_TURN_SECONDS = 60.0
TURN_LOADS = 3.0
"""A model for which there is work stays so many times what loading it took: of two that do not fit together, loading
takes at most a quarter of the time."""


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A resident model: `engine` where it generates, `encoder` where it embeds; neither once it was unloaded."""

    manifest: Manifest
    engine: Engine | None
    encoder: Encoder | None
    resident_bytes: int
    """What it may take: its weights as measured, its cache as far as that may grow, its activations."""
    estimated_bytes: int
    """The same as it was expected before."""
    load_seconds: float
    loaded_at: float
    """Unix seconds."""
    last_used_at: float
    """Unix seconds."""
    active: int = 0
    """Uses between `reserve` and `release`."""
    served: int = 0
    """Uses since it was loaded."""
    precision: str = ""
    """The number format in which it is computed."""

    @classmethod
    def of(cls, load: Load, resident_bytes: int, now: float) -> LoadedModel:
        """What a load brought."""
        return cls(
            manifest=load.manifest,
            engine=load.opened if isinstance(load.opened, Engine) else None,
            encoder=load.opened if isinstance(load.opened, Encoder) else None,
            resident_bytes=resident_bytes,
            estimated_bytes=load.plan.resident_bytes,
            load_seconds=load.seconds,
            loaded_at=now,
            last_used_at=now,
            precision=load.plan.precision,
        )

    @property
    def ungrown_bytes(self) -> int:
        """What it may still come to take of the device, of `resident_bytes`: its cache grows as it is used."""
        runs = self.engine or self.encoder
        return max(self.resident_bytes - runs.resident_bytes, 0) if runs is not None else 0

    @property
    def turn_seconds(self) -> float:
        """How long it stays at least while there is work for it."""
        return min(max(LEAST_TURN_SECONDS, TURN_LOADS * self.load_seconds), MOST_TURN_SECONDS)

    def resident(self, pinned: bool, waited_since: float) -> Resident:
        """As decisions see it."""
        return Resident(
            identity=self.manifest.identity,
            resident_bytes=self.resident_bytes,
            last_used_at=self.last_used_at,
            active=self.active,
            pinned=pinned,
            loaded_at=self.loaded_at,
            served=self.served,
            waited_since=waited_since,
            turn_seconds=self.turn_seconds,
        )

    def residency(self, pinned: bool) -> Residency:
        """As telemetry tells it."""
        return Residency(
            model=self.manifest.identity,
            name=self.manifest.name,
            state="resident",
            resident_bytes=self.resident_bytes,
            load_seconds=self.load_seconds,
            last_used_at=self.last_used_at,
            active=self.active,
            tier="device",
            pinned=pinned,
            estimated_bytes=self.estimated_bytes,
        )


class LoadEnded(NamedTuple):
    """How a load ended, to be told."""

    identity: str
    name: str
    estimated_bytes: int
    resident_bytes: int
    gained_bytes: int
    """What the process or the device has less of since, all that happened meanwhile counted in."""
    seconds: float
    problem: LlmosError | None
    damage: ModelDamaged | None
    """Where the model's files were the fault."""


def load_ended(load: Load, resident_bytes: int, problem: LlmosError | None) -> LoadEnded:
    """How `load` ended."""
    return LoadEnded(
        identity=load.manifest.identity,
        name=load.manifest.name,
        estimated_bytes=load.plan.resident_bytes,
        resident_bytes=resident_bytes,
        gained_bytes=load.gained_bytes,
        seconds=load.seconds,
        problem=problem,
        damage=load.problem if isinstance(load.problem, ModelDamaged) else None,
    )


def never_begun(identity: str, problem: LlmosError) -> LoadEnded:
    """A load that could not even be planned."""
    damage = problem.__cause__ if isinstance(problem.__cause__, ModelDamaged) else None
    return LoadEnded(identity, "", 0, 0, 0, 0.0, problem, damage)


def measured_bytes(opened: Opened, plan: Plan) -> int:
    """What a model may take: its weights by the tensors' own count, and its cache as far as that may grow, since it grows
    while others are resident beside it."""
    weights = opened.resident_bytes
    if isinstance(opened, Engine):
        weights -= opened.cache.resident_bytes
    return weights + plan.cache_bytes + plan.activation_bytes
