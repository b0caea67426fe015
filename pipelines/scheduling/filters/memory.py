"""A device takes tasks whose model fits its budget, once everything else has left."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def memory(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the model's weights, with keys and values of a sequence, in bytes, within the budget."""
    need = max(waiting.need_bytes, waiting.weight_bytes)
    if waiting.group.model in device.resident or need <= device.budget_bytes:
        return None
    return Why("memory", need, device.budget_bytes)
