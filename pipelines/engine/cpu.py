"""The CPU back end: a device is a share of the cores this process may use, and an equal share of the memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from llmos.pipelines.engine.specs import DeviceSpec

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def share_of(cores: list[int], index: int, count: int) -> list[int]:
    """Share `index` of `count` of `cores`: disjoint while there are enough, shared one by one beyond that; never empty."""
    if count > len(cores):
        return [cores[index % len(cores)]]
    return cores[index * len(cores) // count : (index + 1) * len(cores) // count]


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or its container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CGROUP_LIMIT.is_file():
        text = _CGROUP_LIMIT.read_text().strip()
        if text.isdigit():
            total = min(total, int(text))
    return total


class CpuDevice:
    """A share of the CPU."""

    kind = "cpu"
    torch_device = torch.device("cpu")
    dtype = torch.float32
    """bfloat16 is faster only where the CPU multiplies it natively, and the models that run here are small."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec.text
        self.label = spec.label
        # of the main thread: a thread that was activated before must not shrink what is shared out
        self.cores = share_of(sorted(os.sched_getaffinity(os.getpid())), spec.share, spec.shares)
        self.threads = len(self.cores)
        self.memory_bytes = memory_bytes() // spec.shares

    def activate(self) -> None:
        """Pins the calling thread and the torch threads it starts to this share.

        To be called before the thread's first tensor operation: torch's helper threads are started by the first
        parallel one, inherit the cores then, and cannot be moved afterwards.
        """
        os.sched_setaffinity(0, self.cores)
        torch.set_num_threads(self.threads)
