"""A runner's surroundings, and a way to run tasks to their ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmos.pipelines.engine.residents import ResidentModels
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.events import Event, Loading
from llmos.services.worker.runners.keeper import ModelKeeper
from llmos.services.worker.runners.models import Models

STEPS = 1000
PATIENCE_SECONDS = 60.0


class Bench:
    """A runner's surroundings: models, a meter, what was told while loading."""

    def __init__(self, residents: ResidentModels, clock: Callable[[], float] = time.monotonic) -> None:
        self.residents = residents
        self.meter = Meter(clock=clock)
        self.told: list[Event] = []
        self.keeper = ModelKeeper(residents, self.meter, self.told.append)
        self.models = Models(self.keeper)

    @property
    def loading(self) -> list[Loading]:
        """What was told of loads."""
        return [event for event in self.told if isinstance(event, Loading)]

    def turn(self) -> None:
        """What is between two steps: a load that is under way is waited for."""
        self.told += self.keeper.turn()
        if self.residents.loading:
            self.residents.wait(PATIENCE_SECONDS)
            self.told += self.keeper.turn()

    def load(self, *models: str) -> None:
        """Makes the models resident."""
        for model in models:
            self.residents.load(model)
            self.turn()

    def finish(self, runner: Runner) -> list[Event]:
        """Steps until there is nothing more to do."""
        events: list[Event] = []
        for _ in range(STEPS):
            if not runner.busy():
                return events
            self.turn()
            events += runner.step()
        raise AssertionError("the runner does not come to an end")
