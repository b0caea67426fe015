"""Devices that were told to take no more work, until they are told to again or have begun a new life.

A drain lasts until it is undone, or until the device's worker starts anew after it had finished what it had: so a rolling
restart is `drain`, wait, restart, and needs no second word. A worker that starts anew before that is still drained. What
lasts is on `control` and read again by the next scheduler; a drain that is older than `SAY_AGAIN_SECONDS` is said again
before the topic forgets it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmos.schemas.control import Drain

SAY_AGAIN_SECONDS = 6 * 3600.0


@dataclass(slots=True)
class _Drained:
    said_at: float
    empty: bool = False
    """It has finished what it had."""


class Drains:
    """By device; whether the device is there does not matter."""

    def __init__(self) -> None:
        self._by_device: dict[str, _Drained] = {}

    def take(self, message: Drain) -> None:
        """A drain, or the end of one, was read."""
        if message.undo:
            self._by_device.pop(message.device, None)
        elif message.device in self._by_device:
            self._by_device[message.device].said_at = message.at
        else:
            self._by_device[message.device] = _Drained(message.at)

    def __contains__(self, device: object) -> bool:
        return device in self._by_device

    def names(self) -> list[str]:
        """The devices that are drained."""
        return sorted(self._by_device)

    def finished(self, device: str) -> None:
        """The device has nothing in hand."""
        self._by_device[device].empty = True

    def reborn(self, device: str, now: float) -> Drain | None:
        """A new life of the device: what to say where that ends its drain."""
        known = self._by_device.get(device)
        return Drain(device=device, at=now, undo=True) if known is not None and known.empty else None

    def fading(self, now: float) -> list[Drain]:
        """What has to be said again, so that a scheduler that starts tomorrow reads it."""
        old = [name for name, known in self._by_device.items() if now - known.said_at > SAY_AGAIN_SECONDS]
        for name in old:
            self._by_device[name].said_at = now
        return [Drain(device=name, at=now) for name in old]
