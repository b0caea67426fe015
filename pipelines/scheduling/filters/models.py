"""A device takes tasks whose model its node has."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def models(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the model's files on the node."""
    wanted = waiting.group.model
    return None if not wanted or wanted in device.models else Why("model", 1, 0)
