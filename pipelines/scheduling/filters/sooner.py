"""A task that would be done sooner by waiting for a busy device than at once on another one waits.

Not all that wait can be first there: as many as the busy devices would serve meanwhile stay, the next goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.decision import Prediction


def sooner(elsewhere_seconds: float, busy: Sequence[tuple[float, Prediction]], margin: float) -> int:
    """How many tasks should rather wait for the busy devices than be done in `elsewhere_seconds`.

    `busy`: for each device whose window is full, the work of tasks already held back for it, in seconds, and what is
    predicted of one more. Elsewhere must take `margin` times as long as waiting.
    """
    limit = elsewhere_seconds / margin
    rather = 0
    for held, prediction in busy:
        room = limit - held - prediction.seconds
        if room > 0.0:
            rather += 1 + int(room / prediction.work) if prediction.work > 0.0 else 1_000_000_000
    return rather
