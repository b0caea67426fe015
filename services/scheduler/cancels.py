"""Cancels, remembered: they carry their time and hit submissions that were made no later."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from llmos.schemas.job import Head
from llmos.schemas.limits import TIMEOUT_SECONDS


class _Remembered(NamedTuple):
    tenant: str
    at: float
    appended_at: float


class Cancels:
    """The latest cancel per job id; kept as long as a job may live, and at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_id: OrderedDict[bytes, _Remembered] = OrderedDict()

    def remember(self, tenant: str, job_id: bytes, at: float, appended_at: float) -> None:
        """A cancel was read."""
        known = self._by_id.get(job_id)
        if known is None or known.at < at:
            self._by_id[job_id] = _Remembered(tenant, at, appended_at)
            self._by_id.move_to_end(job_id)
        while self._by_id:
            oldest = next(iter(self._by_id.values()))
            if len(self._by_id) <= self._limit and appended_at - oldest.appended_at <= TIMEOUT_SECONDS:
                break
            self._by_id.popitem(last=False)

    def hit(self, head: Head) -> bool:
        """Whether a remembered cancel is meant for this submission."""
        cancel = self._by_id.get(head.job_id)
        return cancel is not None and cancel.tenant == head.tenant and head.submitted_at <= cancel.at
