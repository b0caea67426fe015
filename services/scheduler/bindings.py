"""Repeated keys: the first accepted job binds its key for the window; times are append times, never the clock's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from llmos.schemas.job import Origin


@dataclass(slots=True)
class Binding:
    """The submission that holds a key."""

    s: int
    origin: Origin
    digest: bytes
    closed_at: float | None = None
    """Append time of its receipt; None while it is live."""


Meeting = tuple[Literal["pointer", "conflict"], Binding]


class Bindings:
    """Bound keys by job id; the oldest closed ones make room beyond `limit`."""

    def __init__(self, window_seconds: float, limit: int) -> None:
        self._window = window_seconds
        self._limit = limit
        self._open: dict[bytes, Binding] = {}
        self._closed: OrderedDict[bytes, Binding] = OrderedDict()
        """In the order of closing."""

    def meet(
        self, job_id: bytes, s: int, origin: Origin, digest: bytes, appended_at: float, other: bytes = b""
    ) -> Meeting | None:
        """What an accepted submission meets: an earlier job under its key, or nothing, and then it binds the key.

        `other`: its digest under the tenant's other secret, where two hold; the earlier one may have been made with that.
        """
        bound = self._open.get(job_id) or self._closed.get(job_id)
        if bound is not None and bound.s < s and self._holds(bound, appended_at):
            return ("pointer" if bound.digest in (digest, other or digest) else "conflict", bound)
        if bound is None or bound.s < s:
            self._closed.pop(job_id, None)
            self._open[job_id] = Binding(s, origin, digest)
        return None

    def receipt(self, job_id: bytes, s: int, origin: Origin, digest: bytes, binds: bool, appended_at: float) -> None:
        """A submission has its answer: its binding closes, or falls if it was refused after all."""
        bound = self._open.get(job_id)
        if bound is not None and bound.s == s:
            del self._open[job_id]
        if not binds:
            return
        earlier = self._closed.get(job_id)
        if earlier is not None and earlier.s > s:
            return
        self._closed[job_id] = Binding(s, origin, digest, appended_at)
        self._closed.move_to_end(job_id)
        self._forget(appended_at)

    def _holds(self, bound: Binding, appended_at: float) -> bool:
        return bound.closed_at is None or appended_at - bound.closed_at <= self._window

    def _forget(self, now: float) -> None:
        while self._closed:
            job_id, oldest = next(iter(self._closed.items()))
            closed_at = oldest.closed_at or 0.0
            # Partitions are read at different paces: keep twice the window, `meet` judges by append times.
            if len(self._closed) <= self._limit and now - closed_at <= 2 * self._window:
                return
            del self._closed[job_id]
