"""The devices while one decision is made: working copies that fill as tasks are chosen."""

from __future__ import annotations

from collections.abc import Mapping

from llmos.pipelines.scheduling.decision import Prediction
from llmos.pipelines.scheduling.snapshot import DeviceView


class Seat:
    """A device and what this decision has given it so far; a `Load`."""

    __slots__ = (
        "_flying",
        "_work",
        "device",
        "expected_seconds",
        "held_seconds",
        "in_flight",
        "in_flight_alone",
        "kept_free",
        "load_bytes_per_second",
        "loading",
        "resident",
        "resident_bytes",
        "slots",
        "total_in_flight",
        "utilisation",
        "version",
        "view",
        "window",
        "work_seconds",
    )

    def __init__(self, view: DeviceView) -> None:
        self.view = view
        self.device = view.device
        self.slots = view.slots
        self.window = view.window
        self.in_flight: Mapping[str, int] = view.in_flight
        self.in_flight_alone = view.in_flight_alone
        self.total_in_flight = sum(view.in_flight.values())
        self.utilisation = view.utilisation
        self.work_seconds: Mapping[str, float] = view.work_seconds
        self.expected_seconds = sum(view.work_seconds.values())
        self.resident = view.resident
        self.resident_bytes = view.resident_bytes
        self.loading: Mapping[str, float] = view.loading
        self.load_bytes_per_second = view.load_bytes_per_second
        self.held_seconds = 0.0
        """Work of tasks that this decision holds back for it."""
        self.kept_free = False
        """It takes nothing more in this decision but a task that must be alone, so that it becomes empty for one."""
        self.version = 0
        """Counts what it was given."""
        self._flying: dict[str, int] | None = None
        self._work: dict[str, float] | None = None

    def keep_free(self) -> None:
        """A task that must be alone waits for the device to be empty."""
        self.kept_free = True
        self.version += 1

    def take(self, kind: str, model: str, alone: bool, prediction: Prediction, need_bytes: int) -> None:
        """The task is on its way here."""
        if self._flying is None or self._work is None:
            # Most devices take nothing in most decisions, so the view's own are copied late.
            self.in_flight = self._flying = dict(self.in_flight)
            self.work_seconds = self._work = dict(self.work_seconds)
        self.version += 1
        self._flying[kind] = self._flying.get(kind, 0) + 1
        self.total_in_flight += 1
        self.in_flight_alone += alone
        self._work[kind] = self._work.get(kind, 0.0) + prediction.work
        self.expected_seconds += prediction.work
        if model and model not in self.resident:
            self.resident |= {model}
            self.resident_bytes += need_bytes
            self.loading = {**self.loading, model: prediction.load}
