"""A device takes tasks of the kinds that it runs."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def kinds(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs the kind."""
    return None if waiting.group.kind in device.kinds else Why("kind", 1, 0)
