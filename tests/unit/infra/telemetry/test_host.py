"""The machine, watched: shares of time, memory within a container's limit, pressure where the kernel tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.telemetry import host
from llmos.infra.telemetry.host import HostSampler, memory, pressure
from llmos.infra.telemetry.processors import Ticks

SOME = "some avg10={} avg60=5.40 avg300=1.69 total=3798263586\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (SOME.format("26.42"), 0.2642),
        (SOME.format("0.00"), 0.0),
        ("", 0.0),
        ("full avg10=9.00 avg60=0.00 avg300=0.00 total=0\n", 0.0),
    ],
)
def test_pressure_is_the_share_of_the_last_ten_seconds(tmp_path: Path, text: str, share: float) -> None:
    """Of the line `some`; nothing where there is none."""
    (tmp_path / "cpu").write_text(text)
    assert pressure("cpu", tmp_path) == pytest.approx(share)


def test_a_kernel_without_pressure_tells_none(tmp_path: Path) -> None:
    """No file, no pressure: nothing fails."""
    assert pressure("memory", tmp_path) == 0.0


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit below the machine's memory is the total, and what is left of it is available; `max` is no limit."""
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(host, "_CGROUPS", ((limit, used),))
    machine = memory()
    assert 0 < machine.available <= machine.total
    limit.write_text("max\n")
    assert memory().total == machine.total
    limit.write_text("1000000\n")
    used.write_text("400000\n")
    assert memory() == (1_000_000, 600_000)
    used.write_text("1200000\n")
    assert memory() == (1_000_000, 0)
    limit.write_text(str(2**62))
    assert memory().total == machine.total


def test_the_processors_share_is_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    """The first look tells of the time since the start; within 0.2 s the same is given again."""
    at, busy = [0.0], [0.0]
    sampler = HostSampler(lambda: Ticks(busy[0], 0.0, at[0] * 4), lambda: at[0], tmp_path)
    at[0], busy[0] = 1.0, 3.0
    assert sampler.sample().processor_utilisation == 0.75
    at[0] = 1.1
    assert sampler.sample().processor_utilisation == 0.75
    at[0] = 2.0
    assert sampler.sample().processor_utilisation == 0.0
