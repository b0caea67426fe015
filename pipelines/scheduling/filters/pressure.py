"""Nothing is loaded on a machine that waits for memory: a load would make all that runs there slower."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def pressure(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the model there, or a share of time spent waiting for memory at or below the limit."""
    wanted = waiting.group.model
    if not wanted or wanted in device.resident or device.memory_pressure <= rules.memory_pressure_limit:
        return None
    return Why("pressure", rules.memory_pressure_limit, device.memory_pressure)
