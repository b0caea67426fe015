"""The one interface to devices, and how the back end of a spec is found: one of ours, or one that a package brings.

A back end is a class whose `__init__` takes a `DeviceSpec`; a package names it under its kind in the entry point group
`llmos.devices`. It may also name a function in `llmos.device_discovery`, see `discovery`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint, entry_points

import torch

from llmos.pipelines.engine.interface import Decoder, TextModel
from llmos.pipelines.engine.specs import DeviceSpec, parse_spec
from llmos.schemas.errors import BadSetting
from llmos.schemas.telemetry import DeviceLoad

GROUP = "llmos.devices"
_HERE = "llmos.pipelines.engine"


class Device(ABC):
    """A device, or a share of one, that runs models in the thread that activated it.

    `free_bytes` and `load` may be asked from any thread, the others belong to the threads that run on it. Whatever it
    raises ends the task at hand or, at `open_device`, the process; `torch.OutOfMemoryError` is known as such.
    """

    spec: str
    """What it was opened as: `cpu:0/2`."""
    kind: str
    """The back end."""
    label: str
    """The end of the device's name, after the node's: `cpu0`."""
    threads: int
    """Threads of the CPU that an operation may use, at least 1."""
    memory_bytes: int
    """Memory of this share, in bytes."""
    torch_device: torch.device
    """Where its tensors live."""
    dtype: torch.dtype
    """In what weights are kept and computed unless the model wants something else of `dtypes`."""
    dtypes: frozenset[torch.dtype]
    """In what it computes fast; `dtype` is one of them."""

    @abstractmethod
    def __init__(self, spec: DeviceSpec) -> None:
        """Opens it. Raises `BadSetting` where it is not here or has no such option; `spec.settings` reads them."""

    @abstractmethod
    def activate(self) -> None:
        """Prepares the calling thread; once, before its first tensor operation."""

    @abstractmethod
    def free_bytes(self) -> int:
        """What may still be allocated here, in bytes, as of now and with everybody else's use counted."""

    @abstractmethod
    def load(self) -> DeviceLoad:
        """How loaded it is; shares are those of the time since the last call. Takes well under a millisecond."""

    def synchronize(self) -> None:  # noqa: B027 - most have nothing to do
        """Returns when all that was begun on it is done. Here for devices that compute at once."""

    def empty_cache(self) -> None:  # noqa: B027 - most have nothing to do
        """Gives memory that is kept for reuse back to the device. Here for devices that keep none."""

    def wrap(self, model: Decoder) -> Decoder:
        """The model as this device runs it, asked once after its weights are there; itself, for most devices."""
        return model

    def wrap_encoder(self, model: TextModel) -> TextModel:
        """The same for a model that reads texts."""
        return model


BACK_ENDS: dict[str, str] = {
    "cpu": f"{_HERE}.cpu:CpuDevice",
    "cuda": f"{_HERE}.accelerator:AcceleratorDevice",
    "emulated": f"{_HERE}.emulated:EmulatedDevice",
    "mps": f"{_HERE}.accelerator:AcceleratorDevice",
    "xpu": f"{_HERE}.accelerator:AcceleratorDevice",
}
"""Ours, which an installation has whether or not its entry points are up to date; nobody else can take their kinds."""


def open_device(spec: str) -> Device:
    """The device that `spec` names.

    Raises:
        BadSetting: it is not a spec, there is no such back end, or the back end cannot open it.
    """
    parsed = parse_spec(spec)
    return _back_end(parsed)(parsed)


def back_ends() -> dict[str, EntryPoint]:
    """Kind → where its back end is: all that are installed."""
    ours = {kind: EntryPoint(kind, value, GROUP) for kind, value in BACK_ENDS.items()}
    return {**{point.name: point for point in entry_points(group=GROUP)}, **ours}


def _back_end(spec: DeviceSpec) -> type[Device]:
    known = back_ends()
    point = known.get(spec.kind)
    if point is None:
        kinds = ", ".join(sorted(known))
        raise BadSetting(setting="worker.device", problem=f"there is no back end {spec.kind!r}; there are: {kinds}")
    try:
        found = point.load()
    except (ImportError, AttributeError) as problem:
        raise BadSetting(
            setting="worker.device", problem=f"the back end {spec.kind!r} ({point.value}) cannot be loaded: {problem}"
        ) from problem
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise BadSetting(setting="worker.device", problem=f"the back end {spec.kind!r} ({point.value}) is not a Device")
    return found
