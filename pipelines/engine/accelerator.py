"""Accelerators that torch knows: CUDA (and ROCm, which calls itself so), XPU and MPS, through `torch.accelerator`."""

from __future__ import annotations

import os

import torch

from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.nvml import watch_nvidia
from llmos.pipelines.engine.specs import DeviceSpec
from llmos.schemas.errors import BadSetting
from llmos.schemas.telemetry import DeviceLoad


def choose_dtype(kind: str, bfloat16: bool) -> torch.dtype:
    """In what weights are kept: bfloat16 where the device multiplies it, as most models were trained so; else float16."""
    return torch.bfloat16 if bfloat16 and kind != "mps" else torch.float16


def has_bfloat16(kind: str) -> bool:
    """Whether the present device multiplies bfloat16 in hardware; every XPU does."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else True


class AcceleratorDevice(Device):
    """One accelerator: `cuda:k/n` is the one with index k; n, how many there are, shares out the CPU's threads."""

    def __init__(self, spec: DeviceSpec) -> None:
        spec.settings({})
        present = torch.accelerator.current_accelerator(check_available=True)
        if present is None or present.type != spec.kind:
            seen = "none" if present is None else present.type
            raise BadSetting(setting="worker.device", problem=f"{spec.text}: no {spec.kind} is here; torch sees {seen}")
        count = torch.accelerator.device_count()
        if spec.share >= count:
            raise BadSetting(setting="worker.device", problem=f"{spec.text}: there are {count} of kind {spec.kind}")
        self.spec = spec.text
        self.kind = spec.kind
        self.label = spec.label
        self.threads = max(1, len(os.sched_getaffinity(os.getpid())) // spec.shares)
        self.torch_device = torch.device(spec.kind, spec.share)
        self._index = spec.share
        self.activate()  # what is asked below is asked of the present one
        self.memory_bytes = self._memory()[1]
        self.dtype = choose_dtype(spec.kind, has_bfloat16(spec.kind))
        self.dtypes = frozenset({torch.float16, torch.float32, self.dtype})
        self._watch = watch_nvidia(_uuid(self._index), os.getpid()) if spec.kind == "cuda" else None

    def activate(self) -> None:
        """Makes it the calling thread's present device, and bounds what of the CPU its operations use."""
        torch.accelerator.set_device_index(self._index)
        torch.get_num_threads()  # asked first, or what another thread sets later counts here: see `cpu`
        torch.set_num_threads(self.threads)

    def synchronize(self) -> None:
        """Returns when all that was begun on it is done."""
        torch.accelerator.synchronize(self._index)

    def empty_cache(self) -> None:
        """Gives what torch keeps for reuse back to the device."""
        torch.accelerator.empty_cache()

    def free_bytes(self) -> int:
        """What the driver has left, and what torch keeps for reuse."""
        if self.kind == "mps":  # counted by the driver's own figure
            return self._memory()[0]
        kept = torch.accelerator.memory_reserved(self._index) - torch.accelerator.memory_allocated(self._index)
        return self._memory()[0] + max(0, kept)

    def load(self) -> DeviceLoad:
        """What NVML says of an NVIDIA device; of others, their memory."""
        if self._watch is not None:
            return self._watch.sample()
        free, total = self._memory()
        return DeviceLoad(memory_bytes=total, memory_used_bytes=total - free)

    def _memory(self) -> tuple[int, int]:
        """Free and total, in bytes."""
        if self.kind == "mps":  # its memory is the machine's, and torch.accelerator does not tell
            total = torch.mps.recommended_max_memory()
            return max(0, total - torch.mps.driver_allocated_memory()), total
        return torch.accelerator.get_memory_info(self._index)


def _uuid(index: int) -> str:
    """The name by which NVML knows a device, whatever CUDA_VISIBLE_DEVICES hides or reorders."""
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"
