"""Whether a device may take a task: one criterion a file. Each gives None, or says why not: rule, need, have.

They are asked in the order of `NEAREST`; the first that refuses gives the reason. What `LASTING` asks does not change while
a decision is made, what `PASSING` asks does. `switch` and `sooner` weigh one device against others, so `decide` asks them
where all else is known; `utilisation` binds only while another device may.
"""

from collections.abc import Callable

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.filters.alive import alive
from llmos.pipelines.scheduling.filters.alone import alone
from llmos.pipelines.scheduling.filters.avoided import avoided
from llmos.pipelines.scheduling.filters.kinds import kinds
from llmos.pipelines.scheduling.filters.memory import memory
from llmos.pipelines.scheduling.filters.models import models
from llmos.pipelines.scheduling.filters.pressure import pressure
from llmos.pipelines.scheduling.filters.utilisation import utilisation
from llmos.pipelines.scheduling.filters.window import window
from llmos.pipelines.scheduling.snapshot import DeviceView, Load, Rules, Waiting

LASTING: tuple[Callable[[DeviceView, Waiting, Rules], Why | None], ...] = (
    alive,
    kinds,
    models,
    memory,
    avoided,
    pressure,
)
PASSING: tuple[Callable[[Load, Waiting, Rules], Why | None], ...] = (alone, window)
FILTERS = (*LASTING, *PASSING)

NEAREST = (
    "alive",
    "kind",
    "model",
    "memory",
    "avoided",
    "pressure",
    "alone",
    "window",
    "utilisation",
    "switch",
    "sooner",
)
"""The further down, the nearer was the device to taking the task."""

CAPACITY = frozenset({"alone", "window", "utilisation", "switch", "sooner"})
"""Rules that hold only until work before the task is done."""

__all__ = ["CAPACITY", "FILTERS", "LASTING", "NEAREST", "PASSING", "utilisation"]
