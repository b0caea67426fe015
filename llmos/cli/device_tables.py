"""Tables of devices: their queues and rates, what is resident on them, how busy they and their machines are."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from llmos.cli.tables import table, yes
from llmos.cli.units import UNKNOWN, at_time, size
from llmos.schemas.telemetry import DeviceReport, ModelRate


def devices(found: Iterable[DeviceReport]) -> Table:
    """Devices with λ, μ and ρ, what is in flight, how long it waits there and when it should be done."""
    return table(
        "devices",
        (
            *("device", "node", "alive", "λ /s", "μ /s", "ρ", "in flight/window", "delay s", "backlog s", "served"),
            *("resident/budget", "models", "state"),
        ),
        [
            (
                device.device,
                device.node,
                yes(device.alive),
                f"{device.arrival_rate:.2f}",
                _known(device.service_rate, _timed(device), 2),
                _known(device.utilisation, _timed(device), 3),
                f"{device.in_flight}/{device.window}",
                f"{device.delay_seconds:.3f}",
                f"{device.backlog_seconds:.3f}",
                device.served,
                f"{size(device.resident_bytes)}/{size(device.budget_bytes)}",
                ", ".join(f"{r.name} ({r.state})" for r in device.residents),
                _state(device),
            )
            for device in found
        ],
    )


def rates(found: Iterable[DeviceReport]) -> Table:
    """λ, μ and ρ of each model and kind on each device; kinds without a model take no device time and have no μ."""

    def timed(rate: ModelRate) -> bool:
        return bool(rate.model and rate.samples and rate.service_rate)

    found = list(found)
    # a rate knows its model by identity only: where it is resident nowhere, that is shown
    names = {resident.model: resident.name for device in found for resident in device.residents}
    return table(
        "rates",
        (
            *(
                "device",
                "model",
                "kind",
                "prefill tokens/s",
                "decode step s",
                "and per sequence s",
                "λ /s",
                "μ /s",
                "ρ",
            ),
            *("mean service s", "samples", "confidence"),
        ),
        [
            (
                device.device,
                names.get(rate.model) or rate.model[:12] or UNKNOWN,
                rate.kind,
                _known(rate.prefill_tokens_per_second, rate.prefill_tokens_per_second, 0),
                _known(rate.decode_step_seconds, rate.decode_step_seconds, 5),
                _known(rate.decode_step_seconds_per_sequence, rate.decode_step_seconds, 5),
                f"{rate.arrival_rate:.2f}",
                _known(rate.service_rate, timed(rate), 2),
                _known(rate.utilisation, timed(rate), 3),
                _known(rate.mean_service_seconds, timed(rate), 4),
                rate.samples,
                _known(rate.confidence, timed(rate), 2),
            )
            for device in found
            for rate in device.rates
        ],
    )


def load(found: Iterable[DeviceReport]) -> Table:
    """How busy each device and its machine are, by anybody; a device whose worker has not said so yet is left out."""
    return table(
        "load",
        (
            *("device", "busy", "by its worker", "memory used", "clock", "slowed by", "host busy", "host memory free"),
            *("waits for cores", "for memory", "for disks"),
        ),
        [
            (
                device.device,
                f"{device.load.utilisation:.0%}" if device.load else UNKNOWN,
                f"{device.load.own_utilisation:.0%}" if device.load else UNKNOWN,
                f"{size(device.load.memory_used_bytes)}/{size(device.load.memory_bytes)}" if device.load else UNKNOWN,
                f"{device.load.clock_fraction:.0%}" if device.load else UNKNOWN,
                (device.load.throttled or "nothing") if device.load else UNKNOWN,
                f"{device.host.processor_utilisation:.0%}" if device.host else UNKNOWN,
                size(device.host.memory_available_bytes) if device.host else UNKNOWN,
                f"{device.host.processor_pressure:.0%}" if device.host else UNKNOWN,
                f"{device.host.memory_pressure:.0%}" if device.host else UNKNOWN,
                f"{device.host.io_pressure:.0%}" if device.host else UNKNOWN,
            )
            for device in found
            if device.load or device.host
        ],
    )


def residents(found: Iterable[DeviceReport], now: float) -> Table:
    """What is resident where, `now` being the time of the report."""
    return table(
        "residents",
        (
            "device",
            "model",
            "identity",
            "state",
            "tier",
            "bytes",
            "expected",
            "load s",
            "active",
            "pinned",
            "last used",
        ),
        [
            (
                device.device,
                resident.name,
                resident.model[:12],
                resident.state,
                resident.tier,
                size(resident.resident_bytes),
                size(resident.estimated_bytes) if resident.estimated_bytes else UNKNOWN,
                f"{resident.load_seconds:.2f}",
                resident.active,
                yes(resident.pinned),
                at_time(resident.last_used_at, now),
            )
            for device in found
            for resident in device.residents
        ],
    )


def _state(device: DeviceReport) -> str:
    if not device.alive:
        return "lost"
    return "draining" if device.draining else "takes work"


def _known(value: float, known: object, digits: int) -> str:
    return f"{value:.{digits}f}" if known else UNKNOWN


def _timed(device: DeviceReport) -> bool:
    """Whether its μ says something: a device that only had kinds without a model was given no time to measure."""
    return bool(device.service_rate) and (not device.rates or any(rate.model for rate in device.rates))
