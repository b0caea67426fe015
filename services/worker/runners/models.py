"""The models a runner needs: loaded when first asked for, kept while used, their loading told to those who wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from llmos.pipelines.engine.residents import LoadedModel, ResidentModels
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Loading, TaskName

TELL_SECONDS = 0.1
"""Between two words on a load's progress."""


class Models:
    """Resident models, with progress told through `tell`."""

    def __init__(self, residents: ResidentModels, meter: Meter, tell: Callable[[Loading], None]) -> None:
        self.residents = residents
        self._meter = meter
        self._tell = tell

    def get(self, identity: str, names: Sequence[TaskName]) -> LoadedModel:
        """The model, for the tasks `names`. Raises what `ResidentModels.get` raises."""
        told_at = 0.0

        def progress(done: int, of: int) -> None:
            nonlocal told_at
            now = time.monotonic()
            if now - told_at >= TELL_SECONDS or done == of:
                told_at = now
                self._tell(Loading(tuple(names), identity, done, of))

        began = time.monotonic()
        try:
            return self.residents.get(identity, progress)
        finally:
            self._meter.loading_seconds += time.monotonic() - began
