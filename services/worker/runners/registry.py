"""All runners of a device, made in the engine thread."""

from __future__ import annotations

from collections.abc import Callable

from llmos.infra.settings.tree import Worker
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.residents import ResidentModels
from llmos.pipelines.models.store import ModelStore
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.echo import EchoRunner
from llmos.services.worker.runners.embed import EmbedRunner
from llmos.services.worker.runners.events import Loading
from llmos.services.worker.runners.generate import GenerateRunner
from llmos.services.worker.runners.models import Models

KINDS = [*EchoRunner.kinds, *EmbedRunner.kinds, *GenerateRunner.kinds]
"""What every device runs."""


def make_residents(device: Device, store: ModelStore, settings: Worker) -> ResidentModels:
    """The device's resident models."""
    return ResidentModels(device, store, settings.budget_bytes, settings.slots, embed_batch=settings.embed_batch)


def make_runners(
    residents: ResidentModels, settings: Worker, meter: Meter, tell: Callable[[Loading], None]
) -> list[Runner]:
    """A runner of every kind."""
    models = Models(residents, meter, tell)
    return [EchoRunner(meter), EmbedRunner(models, meter, settings.embed_batch), GenerateRunner(models, meter)]
