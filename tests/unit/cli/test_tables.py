"""Tables: what is unknown is not shown as a number."""

from __future__ import annotations

from io import StringIO

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from llmos.cli import tables
from llmos.schemas.telemetry import DeviceReport, ModelRate

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
        tables.devices(
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
    assert [line[-5:] for line in rows(tables.rates([replace(DEVICE, rates=found)]))] == [
        ["1.25", "4.00", "0.312", "0.2500", "3"],
        ["1.25", "–", "–", "–", "0"],
        ["1.25", "–", "–", "–", "3"],
        ["1.25", "–", "–", "–", "3"],
    ]
