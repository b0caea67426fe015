"""Which accelerators this machine has. No torch here: a node asks, and a node runs no model.

A package that brings a back end may name a function in the entry point group `llmos.device_discovery`: without arguments,
it gives the specs that can be opened here. It should be in a module that does not import torch.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import structlog

from llmos.pipelines.engine.specs import parse_spec

log = structlog.get_logger()

GROUP = "llmos.device_discovery"
DISCOVERIES: dict[str, str] = {"cuda": "llmos.pipelines.engine.nvml:discover"}
"""Ours. Accelerators of other kinds are named by the setting node.devices."""


def discoveries() -> dict[str, EntryPoint]:
    """Kind → where its discovery is: all that are installed."""
    ours = {kind: EntryPoint(kind, value, GROUP) for kind, value in DISCOVERIES.items()}
    return {**{point.name: point for point in entry_points(group=GROUP)}, **ours}


def discover() -> list[str]:
    """The specs of the accelerators that are here, by kind. A discovery that fails is logged, and the others go on."""
    found: list[str] = []
    for kind, point in sorted(discoveries().items()):
        try:
            found += [parse_spec(spec).text for spec in point.load()()]
        except Exception as problem:  # noqa: BLE001 - of a package that we do not know; its devices are missing, and told
            log.error("discovery_failed", kind=kind, entry_point=point.value, problem=str(problem))
    return found
