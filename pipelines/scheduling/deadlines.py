"""Deadlines that cannot be met: refused at once with the prediction instead of late with nothing. Pure."""

from __future__ import annotations


def unreachable(
    predicted_done_at: float, confidence: float, deadline: float, now: float, margin: float, least_confidence: float
) -> float | None:
    """The predicted seconds until the job would be done, if that is too late; None: it may well be in time.

    Only a prediction of at least `least_confidence` counts, and only if the job would take `margin` times the time it has.
    Unix seconds; a prediction of 0 is none.
    """
    if predicted_done_at <= 0.0 or confidence < least_confidence:
        return None
    takes = predicted_done_at - now
    return takes if takes > margin * max(deadline - now, 0.0) else None
