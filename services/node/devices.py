"""Which devices this machine has, and the worker process of each."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.infra.embedded.child import ChildSpec
from llmos.infra.runtime.processes import service_spec
from llmos.infra.settings import Settings
from llmos.pipelines.engine.discovery import discover
from llmos.pipelines.engine.emulation import read_emulation
from llmos.pipelines.engine.specs import DeviceSpec, parse_spec
from llmos.schemas.errors import BadSetting

_WORKER_SHARE = 0.8
"""Of the time that the node has to drain: what its workers get."""


def devices(settings: Settings, found: Sequence[str]) -> dict[str, str]:
    """Device name → spec: those that node.devices names, else the CPU's shares and the accelerators `found`.

    Raises:
        BadSetting: what node.devices names is not a spec, or two of its devices would have the same name.
    """
    named = settings.node.devices
    count = settings.node.cpu_devices
    specs = named or [*(f"cpu:{k}/{count}" for k in range(count)), *found]
    devices: dict[str, str] = {}
    for spec in specs:
        try:
            parsed = parse_spec(spec)
            _check_options(parsed)
            name = f"{settings.node.name}.{parsed.label}"
        except BadSetting as problem:
            raise BadSetting(setting="node.devices", problem=problem.values["problem"]) from None
        if name in devices:
            raise BadSetting(setting="node.devices", problem=f"{devices[name]} and {spec} would both be {name}")
        devices[name] = spec
    return devices


def _check_options(spec: DeviceSpec) -> None:
    """Says now what a worker of ours would say when it starts, again and again. Raises `BadSetting`."""
    if spec.kind == "cpu":
        spec.settings({})
    elif spec.kind == "emulated":
        read_emulation(spec)


def worker_specs(settings: Settings) -> dict[str, ChildSpec]:
    """Device name → the worker process to run. Asks the machine for its devices; raises `BadSetting`."""
    drain = settings.telemetry.drain_seconds * _WORKER_SHARE
    telemetry = settings.telemetry.model_copy(update={"drain_seconds": drain})
    specs = {}
    for device, spec in devices(settings, [] if settings.node.devices else discover()).items():
        worker = settings.worker.model_copy(update={"device": spec})
        own = settings.model_copy(update={"worker": worker, "telemetry": telemetry})
        specs[device] = service_spec(own, "worker", instance=device)
    return specs
