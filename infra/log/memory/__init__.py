"""The log inside one process, with faults: for tests, the simulator and users' own tests; on any event loop.

Rooms:

- `broker`: `MemoryBroker`, the way in. `state`: what all clients share. `store`: one partition, with transactions and their markers.
- `client`: `MemoryLog`, one client's connection, which can crash and freeze. `life`: how its calls end with it.
- `reader`, `transactor`: what the port says. `faults`: what becomes of a write.
"""

from llmos.infra.log.memory.broker import MemoryBroker
from llmos.infra.log.memory.client import MemoryLog
from llmos.infra.log.memory.faults import Fate, Faults, NoFaults, RandomFaults, ScriptedFaults
from llmos.infra.log.memory.life import Crashed
from llmos.infra.log.memory.store import Stored

__all__ = [
    "Crashed",
    "Fate",
    "Faults",
    "MemoryBroker",
    "MemoryLog",
    "NoFaults",
    "RandomFaults",
    "ScriptedFaults",
    "Stored",
]
