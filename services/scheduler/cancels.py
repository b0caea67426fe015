"""Cancels, remembered: they carry their time and hit submissions that were made no later."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from llmos.schemas.job import Head
from llmos.schemas.limits import TIMEOUT_SECONDS


class _Remembered(NamedTuple):
    at: float
    appended_at: float


class Cancels:
    """The latest cancel per tenant and job id; kept as long as a job may live, and at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_id: OrderedDict[tuple[str, bytes], _Remembered] = OrderedDict()
        """By tenant too: a stranger who names the job id must not push the owner's cancel out."""

    def remember(self, tenant: str, job_id: bytes, at: float, appended_at: float) -> None:
        """A cancel was read."""
        name = tenant, job_id
        known = self._by_id.get(name)
        if known is None or known.at < at:
            self._by_id[name] = _Remembered(at, appended_at)
            self._by_id.move_to_end(name)
        while self._by_id:
            oldest = next(iter(self._by_id.values()))
            if len(self._by_id) <= self._limit and appended_at - oldest.appended_at <= TIMEOUT_SECONDS:
                break
            self._by_id.popitem(last=False)

    def hit(self, head: Head) -> bool:
        """Whether a remembered cancel is meant for this submission."""
        cancel = self._by_id.get((head.tenant, head.job_id))
        return cancel is not None and head.submitted_at <= cancel.at
