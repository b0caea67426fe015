"""The one interface to devices, and the table of back ends; a new back end is a file with such a class and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from llmos.pipelines.engine.cpu import CpuDevice
from llmos.pipelines.engine.specs import DeviceSpec, parse_spec
from llmos.schemas.errors import BadSetting


class Device(Protocol):
    """A device, or a share of one, that runs models in the thread that activated it."""

    @property
    def spec(self) -> str:
        """What it was opened as: `cpu:0/2`."""

    @property
    def kind(self) -> str:
        """The back end."""

    @property
    def label(self) -> str:
        """The end of the device's name, after the node's: `cpu0`."""

    @property
    def threads(self) -> int:
        """Threads that an operation may use, at least 1."""

    @property
    def memory_bytes(self) -> int:
        """Memory of this share, in bytes."""

    @property
    def torch_device(self) -> torch.device:
        """Where its tensors live."""

    @property
    def dtype(self) -> torch.dtype:
        """In what weights are kept and computed."""

    def activate(self) -> None:
        """Prepares the calling thread; once, before its first tensor operation."""


BACK_ENDS: dict[str, Callable[[DeviceSpec], Device]] = {"cpu": CpuDevice}


def open_device(spec: str) -> Device:
    """The device that `spec` names.

    Raises:
        BadSetting: it is not a spec, or there is no such back end.
    """
    parsed = parse_spec(spec)
    back_end = BACK_ENDS.get(parsed.kind)
    if back_end is None:
        known = ", ".join(sorted(BACK_ENDS))
        raise BadSetting(setting="worker.device", problem=f"there is no back end {parsed.kind!r}; there are: {known}")
    return back_end(parsed)
