"""Predicted completion: what waits on the device, plus the load if the model is not resident, plus the mean service."""

from __future__ import annotations

from llmos.pipelines.scheduling.snapshot import DeviceView, Group, Rules, Waiting


def service_seconds(device: DeviceView, group: Group, rules: Rules) -> float:
    """Mean service time of such tasks on `device`; the default where it was not measured yet."""
    return device.mean_service_seconds.get((group.model, group.kind), rules.default_service_seconds)


def completion_seconds(device: DeviceView, waiting: Waiting, rules: Rules) -> float:
    """Seconds from now until a task of this group would be done on `device`.

    Tasks in flight are served side by side, `slots` at a time, so a new one waits for their expected service over the
    slots.
    """
    group = waiting.group
    load = 0.0
    if group.model and group.model not in device.resident:
        load = waiting.weight_bytes / device.load_bytes_per_second
    return device.expected_seconds / max(device.slots, 1) + load + service_seconds(device, group, rules)
