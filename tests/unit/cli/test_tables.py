"""Tables: what is unknown is not shown as a number."""

from __future__ import annotations

from io import StringIO

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from llmos.cli import device_tables
from llmos.schemas.telemetry import DeviceLoad, DeviceReport, HostLoad, ModelRate, Residency

RATE = ModelRate(
    model="m", kind="generate", arrival_rate=1.25, service_rate=4.0, utilisation=0.3125, mean_service_seconds=0.25,
    samples=3,
)  # fmt: skip
DEVICE = DeviceReport(
    device="cpu0", node="n", alive=True, arrival_rate=1.0, service_rate=4.0, utilisation=0.25, window=2, in_flight=1,
    budget_bytes=100, resident_bytes=50,
)  # fmt: skip


def rows(table: Table) -> list[list[str]]:
    """The words of each row."""
    file = StringIO()
    Console(file=file, width=200).print(table)
    return [line.split() for line in file.getvalue().splitlines() if line.startswith("cpu0")]


def test_a_device_without_a_service_rate_has_no_utilisation() -> None:
    """Nothing that takes device time was served yet: μ and ρ are not zero (nor huge) but unknown."""
    echo = replace(RATE, model="", kind="echo")
    known, also, unknown, only_echo = rows(
        device_tables.devices(
            [
                DEVICE,
                replace(DEVICE, rates=[echo, RATE]),
                replace(DEVICE, service_rate=0.0, utilisation=0.0),
                replace(DEVICE, rates=[echo]),
            ]
        )
    )
    assert known == also
    assert unknown == only_echo
    assert known[3:6] == ["1.00", "4.00", "0.250"]
    assert unknown[3:6] == ["1.00", "–", "–"]


def test_kinds_without_samples_or_device_time_have_no_service_rate() -> None:
    """A kind that needs no model takes no device time."""
    found = [RATE, replace(RATE, samples=0), replace(RATE, service_rate=0.0), replace(RATE, model="", kind="echo")]
    assert [line[-6:] for line in rows(device_tables.rates([replace(DEVICE, rates=found)]))] == [
        ["1.25", "4.00", "0.312", "0.2500", "3", "0.00"],
        ["1.25", "–", "–", "–", "0", "–"],
        ["1.25", "–", "–", "–", "3", "–"],
        ["1.25", "–", "–", "–", "3", "–"],
    ]


def test_what_is_resident_and_how_busy_the_machine_is() -> None:
    """Bytes with what was expected of them, tier and pin; a device whose worker has not said how busy it is has no line."""
    resident = Residency(
        model="ab" * 32, name="tiny", state="resident", resident_bytes=2048, estimated_bytes=1024, last_used_at=90.0,
        pinned=True, load_seconds=0.5, active=2,
    )  # fmt: skip
    busy = replace(
        DEVICE,
        residents=[resident],
        load=DeviceLoad(
            utilisation=0.5, own_utilisation=0.25, memory_bytes=4096, memory_used_bytes=2048, throttled="heat"
        ),
        host=HostLoad(processor_utilisation=0.75, memory_available_bytes=1024, processor_pressure=0.1),
    )
    assert " ".join(rows(device_tables.residents([busy], 100.0))[0]) == (
        "cpu0 tiny abababababab resident device 2.0 KiB 1.0 KiB 0.50 2 yes 10.0 s ago"
    )
    (line,) = rows(device_tables.load([busy, DEVICE]))
    assert " ".join(line) == "cpu0 50% 25% 2.0 KiB/4.0 KiB 100% heat 75% 1.0 KiB 10% 0% 0%"


def test_a_device_says_whether_it_takes_work() -> None:
    """Drained, lost, or neither."""
    found = [DEVICE, replace(DEVICE, draining=True), replace(DEVICE, alive=False, draining=True)]
    assert [line[-1] for line in rows(device_tables.devices(found))] == ["work", "draining", "lost"]
