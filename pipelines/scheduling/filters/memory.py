"""A device takes tasks whose model fits its budget, once everything has left that may: what is pinned stays."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def memory(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the model's weights, with keys and values of a sequence, in bytes, within the budget less what is pinned."""
    need, have = max(waiting.need_bytes, waiting.weight_bytes), device.budget_bytes - device.pinned_bytes
    if waiting.group.model in device.resident or not waiting.group.model or need <= have:
        return None
    return Why("memory", need, have)
