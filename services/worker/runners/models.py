"""The models that one runner needs: asked for before its tasks join, reserved while they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmos.pipelines.engine.loaded import LoadedModel
from llmos.services.worker.runners.events import TaskName
from llmos.services.worker.runners.keeper import ModelKeeper


class Models:
    """A runner's view of the resident models."""

    def __init__(self, keeper: ModelKeeper) -> None:
        self._keeper = keeper
        self._reserved: Counter[str] = Counter()

    def want(self, identity: str, names: Sequence[TaskName]) -> LoadedModel | None:
        """The model, for the tasks `names`, all that wait for it; None: not now, ask again at the next step.

        None says that it is being loaded, or that there is no room for it yet, or that it has to let a model go first
        whose tasks have waited longer: so it is asked for before tasks join, also while others of its tasks run. Who
        waits asks at every step: what nobody asked for since the step before is wanted no longer.

        Raises:
            LlmosError: it cannot be had; so for every one of `names`.
        """
        return self._keeper.want(identity, names)

    def reserve(self, identity: str) -> LoadedModel:
        """Marks a use: the model stays until as many `release` follow. Raises `KeyError` where it is not resident."""
        model = self._keeper.residents.reserve(identity)
        self._reserved[identity] += 1
        return model

    def release(self, identity: str) -> None:
        """Ends a use. Raises `KeyError` where it is not resident, `ValueError` where it was not reserved."""
        self._keeper.residents.release(identity)
        self._reserved[identity] -= 1

    def abandon(self) -> None:
        """The runner broke down: what it had reserved is let go, for nobody knows in which state it is."""
        self._keeper.residents.abandon([identity for identity, uses in self._reserved.items() if uses > 0])
        self._reserved.clear()
