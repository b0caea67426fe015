"""Work as the scheduler sends it, and tasks as a worker holds them."""

from __future__ import annotations

from typing import Any

from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.residents import ResidentModels
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.job import Task
from llmos.schemas.tasks import EchoInput
from llmos.schemas.work import Work
from llmos.services.worker.held import HeldTask
from tests.kit.bench import NOW, head, job

INCARNATION = 3


def work(s: int = 0, epoch: int = 1, text: str | list[str] = "hello", part: int = 0, **fields: Any) -> Work:
    """One attempt at an echo."""
    values = {name: fields.pop(name) for name in ("incarnation", "deadline") if name in fields}
    texts = [text] if isinstance(text, str) else text
    sealed = job(head(f"k{s}", s, **fields), *(EchoInput(text=texts) for _ in range(part + 1)))
    return Work(
        task=Task(0, s, part, epoch),
        head=sealed.head,
        part=sealed.parts[part],
        dispatched_at=NOW - 1,
        **({"incarnation": INCARNATION, "deadline": NOW + 100} | values),
    )


def held_task(s: int = 0, **fields: Any) -> HeldTask:
    """A task that came now."""
    return HeldTask(work(s, **fields), NOW)


def no_models() -> ResidentModels:
    """A device whose node has no models."""
    return ResidentModels(open_device("cpu:0/1"), ModelStore([]), 1, 1)
