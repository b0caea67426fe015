"""A device takes tasks whose model fits its budget, once everything else has left."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def memory(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the model's weights, in bytes, within the budget."""
    if waiting.group.model in device.resident or waiting.weight_bytes <= device.budget_bytes:
        return None
    return Why("memory", waiting.weight_bytes, device.budget_bytes)
