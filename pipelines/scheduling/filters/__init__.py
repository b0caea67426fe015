"""Whether a device may take a task: one criterion a file. Each gives None, or says why not: rule, need, have.

They are asked in the order of `FILTERS`; the first that refuses gives the reason. `utilisation` comes last and is
asked by `decide` itself, since it binds only while another device may.
"""

from collections.abc import Callable

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.filters.alive import alive
from llmos.pipelines.scheduling.filters.alone import alone
from llmos.pipelines.scheduling.filters.kinds import kinds
from llmos.pipelines.scheduling.filters.memory import memory
from llmos.pipelines.scheduling.filters.models import models
from llmos.pipelines.scheduling.filters.utilisation import utilisation
from llmos.pipelines.scheduling.filters.window import window
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting

Filter = Callable[[DeviceView, Waiting, Rules], Why | None]

FILTERS: tuple[Filter, ...] = (alive, kinds, models, memory, alone, window)

__all__ = ["FILTERS", "Filter", "utilisation"]
