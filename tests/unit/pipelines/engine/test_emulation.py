"""How an emulated device's options are read, and that its faults come by seed."""

from __future__ import annotations

import pytest

from llmos.pipelines.engine.emulation import Emulation, Fault, FaultSource, read_emulation
from llmos.pipelines.engine.specs import parse_spec
from llmos.schemas.errors import BadSetting


def emulation(options: str = "") -> Emulation:
    return read_emulation(parse_spec("emulated:0/1" + (f"?{options}" if options else "")))


def test_without_options_it_is_as_fast_large_and_sound_as_the_cpu() -> None:
    """Speed 1, the share's own memory, no faults."""
    assert emulation()[:4] == (1.0, None, {}, {})


def test_every_option_is_read() -> None:
    """Numbers, faults with their probabilities, poisoned tokens with their faults."""
    text = (
        "speed=0.33&memory=2000000000&faults=nan:0.01,oom:0.02,kernel:0.01,hang:0.001,slow:0.1,die:0&"
        "poison=die:17,nan:18&seed=7&slow_factor=8&slow_seconds=2.5&hang_seconds=60"
    )
    assert emulation(text) == Emulation(
        speed=0.33,
        memory_bytes=2_000_000_000,
        faults={"nan": 0.01, "oom": 0.02, "kernel": 0.01, "hang": 0.001, "slow": 0.1, "die": 0.0},
        poison={17: "die", 18: "nan"},
        seed=7,
        slow_factor=8.0,
        slow_seconds=2.5,
        hang_seconds=60.0,
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("size=3", "has no option 'size'"),
        ("speed=0", r"speed=0 .*above 0"),
        ("speed=fast", r"speed=fast .*above 0"),
        ("speed=nan", r"speed=nan .*above 0"),
        ("speed=2", "at most as fast"),
        ("memory=1e9", "whole number"),
        ("faults=nan", "kind:value"),
        ("faults=fire:0.1", "the faults are nan, oom"),
        ("faults=nan:1.5", "between 0 and 1"),
        ("faults=nan:0.6,oom:0.6", "more than 1 together"),
        ("poison=fire:1", "the faults are nan, oom"),
        ("poison=nan:x", "whole number"),
        ("seed=-1", "whole number"),
    ],
)
def test_what_cannot_be_read_stops_the_start(options: str, problem: str) -> None:
    """An option that is unknown or has no meaning is an error that names it."""
    with pytest.raises(BadSetting, match=problem):
        emulation(options)


def test_faults_come_by_seed_and_share() -> None:
    """The same seed and share: the same faults in the same calls; another seed or share: others."""

    def drawn(seed: int, share: int) -> list[Fault | None]:
        source = FaultSource(emulation(f"faults=nan:0.2,oom:0.2&seed={seed}"), share)
        return [source.draw([[1], [2], [3]]) for _ in range(50)]

    assert drawn(7, 0) == drawn(7, 0)
    assert drawn(7, 0) != drawn(8, 0)
    assert drawn(7, 0) != drawn(7, 1)


def test_faults_are_as_frequent_as_asked() -> None:
    """Over many calls each comes about as often as its probability says, hitting every row at times."""
    source = FaultSource(emulation("faults=nan:0.1,kernel:0.3"), 0)
    drawn = [source.draw([[1], [2], [3]]) for _ in range(4000)]
    kinds = [fault.kind for fault in drawn if fault is not None]
    assert kinds.count("nan") / 4000 == pytest.approx(0.1, abs=0.02)
    assert kinds.count("kernel") / 4000 == pytest.approx(0.3, abs=0.03)
    assert set(kinds) == {"nan", "kernel"}
    assert {fault.rows for fault in drawn if fault is not None} == {(0,), (1,), (2,)}


@pytest.mark.parametrize(
    ("tokens", "fault"),
    [
        ([[1, 2, 3]], None),
        ([[1, 17, 3]], Fault("nan", (0,))),
        ([[1], [17], [2], [17]], Fault("nan", (1, 3))),
        ([[1], [42]], Fault("kernel", (1,))),
        ([[42], [17]], Fault("kernel", (0,))),
    ],
)
def test_a_poisoned_token_has_its_fault_whoever_reads_it(tokens: list[list[int]], fault: Fault | None) -> None:
    """Its rows are hit, no others; of two kinds in a call the first has its way."""
    assert FaultSource(emulation("poison=nan:17,kernel:42"), 0).draw(tokens) == fault
