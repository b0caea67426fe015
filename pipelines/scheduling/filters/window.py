"""A device takes tasks until its window is full: queues stay short, so that order is decided in the scheduler."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def window(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs one more place in the window of the kind; kinds without a window of their own share one."""
    kind = waiting.group.kind
    if kind in device.window:
        limit, used = device.window[kind], device.in_flight.get(kind, 0)
    else:
        limit = device.window.get("", 0)
        used = sum(count for name, count in device.in_flight.items() if name not in device.window)
    return None if used < limit else Why("window", used + 1, limit)
