"""What becomes of a write: applied at once or late, acknowledged at once or late, or lost. Scripted, or drawn by a seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

from llmos.infra.log.port import Place

Operation = Literal["emit", "deliver", "end", "commit", "init"]
"""A batch; a batch of a transaction; a transaction's commit or abort; committing offsets; initialising a transactor."""


class Fate(NamedTuple):
    """What becomes of one write. Times in seconds."""

    apply_after: float | None = 0.0
    """Until the broker has it; None: never, and its writer hears nothing."""
    ack_after: float | None = 0.0
    """From there until the writer hears of it; None: never."""
    survives: bool = True
    """Whether it is applied although the writer crashed before: a late batch."""
    marker_after: float = 0.0
    """Of a transaction's commit: until its markers are written; records become visible then."""


class Faults(Protocol):
    """Decides the fate of every write."""

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """`place`: of a batch or an offset (the first of several), None else. `random` is the broker's."""


class NoFaults:
    """Everything at once."""

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """The plain fate."""
        return Fate()


class ScriptedFaults:
    """Fates for chosen writes, in order; everything else happens at once."""

    def __init__(self, script: Iterable[tuple[str, Operation, Fate]]) -> None:
        """`script`: (client, operation, fate); each entry is used once, by the first write that it fits."""
        self._script = deque(script)

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """The first entry that fits."""
        for entry in self._script:
            if entry[:2] == (client, operation):
                self._script.remove(entry)
                return entry[2]
        return Fate()


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Delays for all, lateness and loss for some; `random` decides, so a seed repeats everything.

    Probabilities per write, times in seconds.
    """

    delay: float = 0.005
    """Mean of the (exponential) times to apply and to acknowledge."""
    late: float = 0.0
    """Probability that a write is applied after up to `late_seconds`."""
    late_seconds: float = 5.0
    unheard: float = 0.0
    """Probability that a write is applied and its writer never hears."""
    lost: float = 0.0
    """Probability that a write is never applied and its writer never hears."""
    survives: float = 0.5
    """Probability that a write on its way is applied after its writer's crash."""
    marker_delay: float = 0.02
    """Mean of the (exponential) time from a transaction's commit to its markers."""

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """Draws; always the same number of times, so that one probability changes nothing else."""
        apply, ack, marker = (random.expovariate(1.0) for _ in range(3))
        late, unheard, lost, survives = (random.random() for _ in range(4))
        late_seconds = random.uniform(0.0, self.late_seconds)
        apply_after: float | None = late_seconds if late < self.late else apply * self.delay
        return Fate(
            apply_after=None if lost < self.lost else apply_after,
            ack_after=None if unheard < self.unheard else ack * self.delay,
            survives=survives < self.survives,
            marker_after=marker * self.marker_delay,
        )
