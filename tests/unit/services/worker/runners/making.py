"""A runner's surroundings, and a way to run tasks to their ends."""

from __future__ import annotations

from llmos.pipelines.engine.residents import ResidentModels
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.events import Event, Loading
from llmos.services.worker.runners.models import Models

STEPS = 1000


class Bench:
    """A runner's surroundings: models, a meter, what was told while loading."""

    def __init__(self, residents: ResidentModels) -> None:
        self.residents = residents
        self.meter = Meter()
        self.told: list[Loading] = []
        self.models = Models(residents, self.meter, self.told.append)

    def finish(self, runner: Runner) -> list[Event]:
        """Steps until there is nothing more to do."""
        events: list[Event] = []
        for _ in range(STEPS):
            if not runner.busy():
                return events
            events += runner.step()
        raise AssertionError("the runner does not come to an end")
