"""Predicted completion: what waits on the device, plus the load if the model is not resident, plus the service."""

from __future__ import annotations

from llmos.pipelines.scheduling.costs import Cost, service_of
from llmos.pipelines.scheduling.decision import Prediction
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.seats import Seat


def predict(seat: Seat, kind: str, model: str, weight_bytes: int, key: Key, cost: Cost) -> Prediction:
    """What `seat` would make of the task, in seconds from now.

    Sequences that generate run together, `slots` of them: a further one begins at once in a larger batch, and beyond
    `slots` when enough of those before it are done, which leave evenly over the work in flight. Other kinds are served in
    turn, so a task waits for the work of its kind. Work of other kinds goes on beside and takes the task's own time once
    more at most.
    """
    in_flight = seat.in_flight.get(kind, 0)
    mine = seat.work_seconds.get(kind, 0.0)
    if key.output_tokens:
        slots = seat.slots if seat.slots > 0 else 1
        batch = min(in_flight + key.sequences, slots)
        service, work = service_of(cost, key.input_tokens, key.output_tokens, batch, key.sequences)
        wait = mine * (in_flight + 1 - slots) / in_flight if in_flight >= slots else 0.0
    else:
        service, work = service_of(cost, key.input_tokens, 0, 1)
        wait = mine
    others = seat.expected_seconds - mine
    if others > 0.0:
        wait += others if others < service else service
    return Prediction(wait, load_seconds(seat, model, weight_bytes), service, work)


LEAST_BURDEN = 0.02
"""A further sequence adds at least this share of a step to the others' steps, whatever was measured: where it seems to add
nothing, noise would send everything to one device."""


def burden_seconds(seat: Seat, kind: str, key: Key, cost: Cost) -> float:
    """How much later those that run in the same batch will be for it, summed: every step of theirs takes b longer."""
    beside = min(seat.in_flight.get(kind, 0), max(seat.slots, 1) - 1)
    if not key.output_tokens or beside < 1 or cost.step_seconds <= 0.0:
        return 0.0
    each = max(cost.sequence_seconds, LEAST_BURDEN * cost.step_seconds)
    return beside * each * key.output_tokens * cost.output_fraction


def load_seconds(seat: Seat, model: str, weight_bytes: int) -> float:
    """Until the model is there: bytes over measured speed, after the loads under way; what remains, if it is one of them."""
    if not model:
        return 0.0
    if model in seat.resident:
        return seat.loading.get(model, 0.0) if seat.loading else 0.0
    return weight_bytes / seat.load_bytes_per_second + max(seat.loading.values(), default=0.0)
