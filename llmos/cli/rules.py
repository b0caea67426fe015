"""The scheduler's rules in sentences for people: the one place where a rule with its need and have becomes words."""

from __future__ import annotations

from collections.abc import Callable

from llmos.cli.units import duration, size

Words = Callable[[float, float], str]
"""From what is needed and what there is."""


def in_words(rule: str, need: float = 0.0, have: float = 0.0) -> str:
    """Why a task waits; a rule that this version does not know is told with its figures."""
    if not rule:
        return ""
    words = _WORDS.get(rule)
    return words(need, have) if words else f"rule {rule}: needs {need:g}, has {have:g}"


def _alone(need: float, have: float) -> str:
    return f"a worker died under such a task, so it runs alone, and {have:g} tasks are in its way"


def _memory(need: float, have: float) -> str:
    return f"memory: {size(need)} are needed, {size(have)} can be had"


def _sooner(need: float, have: float) -> str:
    if not need or not have:
        return "a busy device will be done with it sooner than any other could be"
    first, last = sorted((need, have))
    return f"a busy device will be done with it in {duration(first)}, any other only in {duration(last)}"


def _pressure(need: float, have: float) -> str:
    return f"the machine waits for memory {have:.0%} of the time, and nothing is loaded above {need:.0%}"


def _switch(need: float, have: float) -> str:
    return f"a model that others wait for would have to leave for it; its turn comes after {duration(need)} ({duration(have)} so far)"


_WORDS: dict[str, Words] = {
    "alive": lambda need, have: "no device takes work: none is alive that is not drained",
    "kind": lambda need, have: "no device runs tasks of this kind",
    "model": lambda need, have: "no node of a live device has this model whole",
    "memory": _memory,
    "avoided": lambda need, have: "a device failed it, so another is waited for",
    "alone": _alone,
    "window": lambda need, have: (
        f"the devices have as much as they begin soon: {max(need - 1, 0):g} tasks, {have:g} at most"
    ),
    "utilisation": lambda need, have: f"the devices are overloaded: ρ is {have:.2f} and at most {need:.2f} is allowed",
    "sooner": _sooner,
    "pressure": _pressure,
    "switch": _switch,
    # a worker's, of a task that it has
    "load": lambda need, have: "another model is being loaded there first",
    "pinned": lambda need, have: f"pinned models leave no room: {size(need)} are needed, {size(have)} can be had",
    "device_memory": lambda need, have: (
        f"others use the device's memory: {size(need)} are needed, {size(have)} are left"
    ),
    "turn": lambda need, have: "its turn on the device has not come yet",
    "slots": lambda need, have: f"as many sequences as can run together do so ({have:g})",
    "kv_memory": lambda need, have: f"keys and values would take {size(need)}, {size(have)} may be taken",
}
