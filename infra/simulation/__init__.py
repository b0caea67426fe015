"""Runs asyncio programs in virtual time, repeatably: for the simulator and for anybody's tests.

Rooms:

- `loop`: `VirtualLoop`, whose time jumps to the next timer when nothing is ready, and `Deadlock`.
- `clock`: `VirtualClock`, that loop's time as wall time. `runner`: `run`, one program on one seed.
"""

from llmos.infra.simulation.clock import VirtualClock
from llmos.infra.simulation.loop import Deadlock, VirtualLoop
from llmos.infra.simulation.runner import run

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop", "run"]
