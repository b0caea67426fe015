"""What the driver of NVIDIA's devices says of them (NVML): which there are, load, clocks, what slows them. No torch here.

Everything here has an answer where the library or the driver is absent: no devices, no watch.
https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from llmos.infra.telemetry.processors import OTHERS_LIMIT, clamp
from llmos.schemas.telemetry import DeviceLoad

log = structlog.get_logger()

REASONS = (
    (0x0000000000000020 | 0x0000000000000040, "it is hot"),
    (0x0000000000000004 | 0x0000000000000080, "it is at its power limit"),
    (0x0000000000000008, "its hardware slows it down"),
)
"""Bits of nvmlClocksEventReasons that mean “slower than it could”, and what they mean."""


@lru_cache(maxsize=1)
def open_nvml() -> Any | None:
    """The library, initialised; None where the package or the driver is not there."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        log.debug("nvml_absent", problem="nvidia-ml-py is not installed")
        return None
    try:
        library.nvmlInit()
    except library.NVMLError as problem:
        log.debug("nvml_absent", problem=str(problem))
        return None
    return library


def discover() -> list[str]:
    """The specs of the devices that CUDA would show to a worker of this installation."""
    library = open_nvml()
    if library is None or not torch_has_cuda():
        return []
    count = visible(library.nvmlDeviceGetCount(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [f"cuda:{k}/{count}" for k in range(count)]


def visible(count: int, wanted: str | None) -> int:
    """How many of `count` devices CUDA shows where CUDA_VISIBLE_DEVICES is `wanted`: those before the first that is none.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    """
    if wanted is None:
        return count
    shown = 0
    for entry in map(str.strip, wanted.split(",")):
        if not entry.startswith(("GPU-", "MIG-")) and not (entry.isdigit() and int(entry) < count):
            break
        shown += 1
    return shown


def torch_has_cuda() -> bool:
    """Whether the torch that is installed was built for CUDA; looks at its files, torch itself takes seconds to import."""
    found = importlib.util.find_spec("torch")
    folders = (found.submodule_search_locations or []) if found else []
    return any((Path(folder) / "lib" / "libtorch_cuda.so").exists() for folder in folders)


class NvidiaWatch:
    """Watches one device, as NVML knows it."""

    def __init__(self, library: Any, handle: Any, pid: int) -> None:
        self._library = library
        self._handle = handle
        self._pid = pid
        self._seen_at = 0
        """Driver's time of the newest sample of processes, in microseconds."""
        self._own: float | None = None

    def sample(self) -> DeviceLoad:
        """As of now. Where the driver does not answer, that is what the load says."""
        nvml = self._library
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(self._handle)
            utilisation = clamp(self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu, 0) / 100.0)
            others = self._look_at_processes()
            own = utilisation if self._own is None else self._own
            reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle), 0)
            present = self._ask(lambda: nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM), 0)
            highest = self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(self._handle, nvml.NVML_CLOCK_SM), 0)
        except nvml.NVMLError as problem:
            return DeviceLoad(throttled=f"its driver does not answer: {problem}"[:200])
        return DeviceLoad(
            utilisation=utilisation,
            own_utilisation=own,
            memory_bytes=int(memory.total),
            memory_used_bytes=int(memory.used),
            throttled=throttled(int(reasons), others),
            clock_fraction=clamp(present / highest) if highest else 1.0,
        )

    def _look_at_processes(self) -> float:
        """Notes this process's share since the last look, gives that of others.

        Both are known only where the driver shows this process: in a container it may know it by another number. Then
        all that runs is taken for its own.
        """
        nvml = self._library
        rows = self._ask(lambda: nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_at), [])
        self._seen_at = max((int(row.timeStamp) for row in rows), default=self._seen_at)
        latest = {int(row.pid): clamp(row.smUtil / 100.0) for row in sorted(rows, key=lambda row: row.timeStamp)}
        if self._pid in latest:
            self._own = latest[self._pid]
        elif self._own is None:
            return 0.0
        else:
            self._own = 0.0  # it was shown before, and has not run since
        return sum(share for pid, share in latest.items() if pid != self._pid)

    def _ask(self, call: Any, otherwise: Any) -> Any:
        """What the driver says; `otherwise` where this device cannot say such a thing, or has nothing to say yet."""
        nvml = self._library
        try:
            return call()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission, nvml.NVMLError_NotFound):
            return otherwise


def throttled(reasons: int, others: float) -> str:
    """Why a device runs slower than it could; empty: it does not. `others`: the share that other processes take."""
    for bits, words in REASONS:
        if reasons & bits:
            return words
    return "somebody else uses it" if others > OTHERS_LIMIT else ""


def watch_nvidia(uuid: str, pid: int) -> NvidiaWatch | None:
    """A watch of the device with this UUID; None where NVML is absent or does not know it."""
    library = open_nvml()
    if library is None:
        return None
    try:
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
    except library.NVMLError as problem:
        log.warning("nvml_device_unknown", uuid=uuid, problem=str(problem))
        return None
    return NvidiaWatch(library, handle, pid)
