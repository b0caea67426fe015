"""Lives of devices that were given up: whatever they say later, they do not come back.

A worker that hangs or is unheard of may wake. Its tasks are at work elsewhere by then, so it is fenced: the fence on
`control` ends it as soon as it reads that, and its node ends the process where it does not. Fences are read again at a
start, since the next scheduler must not take a fenced life back either.
"""

from __future__ import annotations

from llmos.schemas.control import Fence
from llmos.schemas.telemetry import Heartbeat

SAY_AGAIN_SECONDS = 1.0
"""A fenced life that still beats is told again, at most this often: its first fence may have been lost with a scheduler."""


class Fences:
    """The highest fenced incarnation of each device."""

    def __init__(self) -> None:
        self._fenced: dict[str, int] = {}
        self._said_at: dict[str, float] = {}

    def restore(self, message: Fence) -> None:
        """A fence was read, this scheduler's own or an earlier one's."""
        self._fenced[message.device] = max(self._fenced.get(message.device, -1), message.incarnation)

    def hold(self, heartbeat: Heartbeat) -> bool:
        """Whether the heartbeat is of a life that was given up."""
        return heartbeat.incarnation <= self._fenced.get(heartbeat.device, -1)

    def give_up(self, last: Heartbeat, reason: str, now: float) -> Fence:
        """Gives up the life that `last` was heard of; what to say."""
        message = Fence(
            device=last.device, node=last.node, incarnation=last.incarnation, pid=last.pid, at=now, reason=reason
        )
        self.restore(message)
        self._said_at[last.device] = now
        return message

    def again(self, heartbeat: Heartbeat, now: float) -> Fence | None:
        """A life that was given up still beats: what to say, at most once a second."""
        if now - self._said_at.get(heartbeat.device, float("-inf")) < SAY_AGAIN_SECONDS:
            return None
        return self.give_up(heartbeat, "it was given up and still beats", now)
