"""What an emulated device is told to be: its options, and which call meets which fault. Pure, but for a seeded generator."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llmos.pipelines.engine.specs import DeviceSpec
from llmos.schemas.errors import BadSetting

FAULTS = ("nan", "oom", "kernel", "hang", "slow", "die")
"""NaN in what the model gives; memory that does not suffice; an exception from a kernel; a call that does not return;
a slow phase, as of a hot chip; the process's end."""

OPTIONS: Mapping[str, str] = {
    "speed": "1",
    "memory": "",
    "faults": "",
    "poison": "",
    "seed": "0",
    "slow_factor": "4",
    "slow_seconds": "5",
    "hang_seconds": "86400",
}
"""Every option with its default; docs/devices.md says what they mean."""


class Emulation(NamedTuple):
    """The options, read."""

    speed: float
    """Of the CPU's: a call that takes t there takes t/speed here; above 0, at most 1."""
    memory_bytes: int | None
    """None: as much as the share of the CPU has."""
    faults: Mapping[str, float]
    """Fault → probability per call of the model."""
    poison: Mapping[int, str]
    """Token → the fault of each call that reads it."""
    seed: int
    slow_factor: float
    """How many times slower a slow phase is."""
    slow_seconds: float
    hang_seconds: float


def read_emulation(spec: DeviceSpec) -> Emulation:
    """The options of a spec. Raises `BadSetting` for one that is unknown or cannot be read."""
    options = spec.settings(OPTIONS)
    speed = _number(options, "speed")
    if speed > 1.0:
        raise _bad("speed", options["speed"], "an emulated device is at most as fast as the CPU, 1")
    faults = {kind: _probability(kind, value) for kind, value in _pairs(options, "faults")}
    for kind in faults:
        _check_fault("faults", kind)
    if sum(faults.values()) > 1.0:
        raise _bad("faults", options["faults"], "the probabilities are more than 1 together")
    poison: dict[int, str] = {}
    for kind, value in _pairs(options, "poison"):
        _check_fault("poison", kind)
        poison[_whole("poison", value)] = kind
    return Emulation(
        speed=speed,
        memory_bytes=_whole("memory", options["memory"]) if options["memory"] else None,
        faults=faults,
        poison=poison,
        seed=_whole("seed", options["seed"]),
        slow_factor=max(1.0, _number(options, "slow_factor")),
        slow_seconds=_number(options, "slow_seconds"),
        hang_seconds=_number(options, "hang_seconds"),
    )


class Fault(NamedTuple):
    """What a call meets."""

    kind: str
    rows: tuple[int, ...]
    """Places, among what the call reads, that it hits."""


class FaultSource:
    """Says of each call which fault it meets, the same ones in the same order for the same seed and share."""

    def __init__(self, emulation: Emulation, share: int) -> None:
        self._emulation = emulation
        self._random = random.Random(f"{emulation.seed}/{share}")

    def draw(self, tokens: Iterable[Iterable[int]]) -> Fault | None:
        """The fault of a call that reads these tokens, a row for each sequence; a poisoned token goes before chance."""
        rows = [list(row) for row in tokens]
        if self._emulation.poison:
            hit = _poisoned(self._emulation.poison, rows)
            if hit is not None:
                return hit
        if not self._emulation.faults:
            return None
        drawn, place = self._random.random(), self._random.randrange(max(1, len(rows)))
        for kind in FAULTS:
            drawn -= self._emulation.faults.get(kind, 0.0)
            if drawn < 0.0:
                return Fault(kind, (place,))
        return None


def _poisoned(poison: Mapping[int, str], rows: list[list[int]]) -> Fault | None:
    found = [(place, poison[token]) for place, row in enumerate(rows) for token in row if token in poison]
    if not found:
        return None
    kind = found[0][1]
    return Fault(kind, tuple(dict.fromkeys(place for place, other in found if other == kind)))


def _pairs(options: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    """`kind:value,kind:value` as pairs."""
    pairs = []
    for part in options[name].split(",") if options[name] else ():
        kind, separator, value = part.partition(":")
        if not separator:
            raise _bad(name, part, "it must be of the form kind:value")
        pairs.append((kind, value))
    return pairs


def _number(options: Mapping[str, str], name: str) -> float:
    try:
        number = float(options[name])
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0.0):
        raise _bad(name, options[name], "it must be a number above 0")
    return number


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _bad(name, text, "it must be a whole number")
    return int(text)


def _probability(kind: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise _bad("faults", f"{kind}:{text}", "a probability is between 0 and 1")
    return number


def _check_fault(name: str, kind: str) -> None:
    if kind not in FAULTS:
        raise _bad(name, kind, f"the faults are {', '.join(FAULTS)}")


def _bad(name: str, value: str, problem: str) -> BadSetting:
    return BadSetting(setting="worker.device", problem=f"option {name}={value} of an emulated device: {problem}")
