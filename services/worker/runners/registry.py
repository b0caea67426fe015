"""All runners of a device, and their crew, made in the engine thread."""

from __future__ import annotations

from llmos.infra.settings.tree import Worker
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.residents import ResidentModels
from llmos.pipelines.models.store import ModelStore
from llmos.services.worker.crew import Factory
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.echo import EchoRunner
from llmos.services.worker.runners.embed import EmbedRunner
from llmos.services.worker.runners.generate import GenerateRunner

KINDS = [*EchoRunner.kinds, *EmbedRunner.kinds, *GenerateRunner.kinds]
"""What every device runs."""


def make_residents(device: Device, store: ModelStore, settings: Worker) -> ResidentModels:
    """The device's resident models."""
    return ResidentModels(
        device,
        store,
        settings.budget_bytes,
        settings.slots,
        embed_batch=settings.embed_batch,
        context_tokens=settings.context_tokens,
        cache_share=settings.cache_share,
    )


def factories(settings: Worker, meter: Meter) -> list[Factory]:
    """How a runner of every kind is made."""
    return [
        lambda _: EchoRunner(meter),
        lambda models: EmbedRunner(models, meter, settings.embed_batch),
        lambda models: GenerateRunner(models, meter),
    ]
