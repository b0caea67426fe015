"""A toy accelerator: it keeps weights in float64 and computes with one thread of the CPU. What a true back end replaces is
where tensors live (`torch_device`), what there is of memory, and what its driver says of its load."""

from __future__ import annotations

import time

import psutil
import torch

from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.specs import DeviceSpec
from llmos.schemas.errors import BadSetting
from llmos.schemas.telemetry import DeviceLoad


class ToyDevice(Device):
    """`toy:k/n?memory=BYTES`: one of n alike; 2 GB of memory unless the option says otherwise."""

    def __init__(self, spec: DeviceSpec) -> None:
        options = spec.settings({"memory": "2000000000"})  # unknown options are refused here
        if not options["memory"].isdigit() or int(options["memory"]) == 0:
            raise BadSetting(setting="worker.device", problem=f"memory={options['memory']} is not a number of bytes")
        self.spec = spec.text
        self.kind = spec.kind
        self.label = spec.label
        self.threads = 1
        self.memory_bytes = int(options["memory"])
        self.torch_device = torch.device("cpu")  # of your own: torch.device("yours", spec.share)
        self.dtype = torch.float64
        self.dtypes = frozenset({torch.float64, torch.float32})
        self._process = psutil.Process()
        self._before = (time.monotonic(), time.process_time())

    def activate(self) -> None:
        """Called once in each thread that computes here: choose the device, bound the CPU's threads."""
        torch.set_num_threads(self.threads)

    def free_bytes(self) -> int:
        """What a model may still take: ask the driver, which also knows what others took."""
        return max(0, self.memory_bytes - self._used_bytes())

    def load(self) -> DeviceLoad:
        """Goes out with each heartbeat: ask the driver, never wait."""
        (then, used), now = self._before, (time.monotonic(), time.process_time())
        self._before = now
        share = min(1.0, (now[1] - used) / max(now[0] - then, 1e-3))
        return DeviceLoad(
            utilisation=share,
            own_utilisation=share,
            memory_bytes=self.memory_bytes,
            memory_used_bytes=self._used_bytes(),
        )

    def _used_bytes(self) -> int:
        return min(self.memory_bytes, int(self._process.memory_info().rss))
