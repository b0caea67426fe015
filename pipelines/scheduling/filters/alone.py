"""A task under which workers died runs alone on its device, so that it takes no neighbours with it."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import Load, Rules, Waiting


def alone(device: Load, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs an empty device for such a task, and no such task on the device for any other."""
    if waiting.group.alone and device.total_in_flight:
        return Why("alone", 0, device.total_in_flight)
    if device.in_flight_alone:
        return Why("alone", 0, device.in_flight_alone)
    return None
