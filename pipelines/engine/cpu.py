"""The CPU back end: a device is a share of the cores this process may use, and an equal share of the memory."""

from __future__ import annotations

import ctypes
import os

import psutil
import torch

from llmos.infra.telemetry.host import memory
from llmos.infra.telemetry.processors import CoreWatch
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.specs import DeviceSpec
from llmos.schemas.telemetry import DeviceLoad


def share_of(cores: list[int], index: int, count: int) -> list[int]:
    """Share `index` of `count` of `cores`: disjoint while there are enough, shared one by one beyond that; never empty."""
    if count > len(cores):
        return [cores[index % len(cores)]]
    return cores[index * len(cores) // count : (index + 1) * len(cores) // count]


def fast_dtypes(bfloat16: bool) -> frozenset[torch.dtype]:
    """In what a CPU computes fast; `bfloat16`: whether it has instructions for that."""
    return frozenset({torch.float32, torch.bfloat16} if bfloat16 else {torch.float32})


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (AVX512-BF16 or AMX; on ARM, BF16).

    Not AVX-512 alone: without these, oneDNN converts to float32 and back, which is slower than float32 itself.
    """
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class CpuDevice(Device):
    """A share of the CPU."""

    def __init__(self, spec: DeviceSpec) -> None:
        spec.settings({})
        self.spec = spec.text
        self.kind = "cpu"
        self.label = spec.label
        # of the main thread: a thread that was activated before must not shrink what is shared out
        self.cores = share_of(sorted(os.sched_getaffinity(os.getpid())), spec.share, spec.shares)
        self.threads = len(self.cores)
        self.memory_bytes = memory().total // spec.shares
        self.torch_device = torch.device("cpu")
        self.dtype = torch.float32
        """What is right for every model; a large one gains from bfloat16 where that is among `dtypes`."""
        self.dtypes = fast_dtypes(multiplies_bfloat16())
        self._process = psutil.Process()
        self._watch = CoreWatch(self.cores)

    def activate(self) -> None:
        """Pins the calling thread and the torch threads it starts to this share.

        To be called before the thread's first tensor operation: torch's helper threads are started by the first
        parallel one, inherit the cores then, and cannot be moved afterwards.
        """
        os.sched_setaffinity(0, self.cores)
        # Asked first: a thread that has neither asked nor computed yet takes the number that any thread has set last when
        # it first computes, whatever it was set to itself. A load that is told to use one thread would slow all the rest.
        torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def free_bytes(self) -> int:
        """The share less what this process holds, and no more than the machine has left."""
        return max(0, min(self.memory_bytes - self._used_bytes(), memory().available))

    def load(self) -> DeviceLoad:
        """The share's cores by anybody and by this process, and this process's memory."""
        cores = self._watch.sample()
        return DeviceLoad(
            utilisation=cores.utilisation,
            own_utilisation=cores.own_utilisation,
            memory_bytes=self.memory_bytes,
            memory_used_bytes=self._used_bytes(),
            throttled=cores.throttled,
            clock_fraction=cores.clock_fraction,
        )

    def empty_cache(self) -> None:
        """Has the C library give freed memory back to the system, which it keeps for itself in pieces up to 32 MB: what a
        model leaves that went is such pieces. Where the library is another one than glibc there is nothing to ask."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def _used_bytes(self) -> int:
        return int(self._process.memory_info().rss)
