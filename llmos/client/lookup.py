"""Finds answers, from this client's own reader or by a search of `results`, and opens them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from llmos.client.errors import CannotOpen, NoAnswer
from llmos.client.identity import Identity
from llmos.client.matching import Board
from llmos.client.references import JobRef, Reference, Submission, pointed, reference_of
from llmos.client.results import Results, Sought, requested, search
from llmos.client.sending import Sender
from llmos.infra.log.port import Log
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer


class Sight:
    """What is known of a job before its answer is looked for; of a submission of this client's own, all."""

    __slots__ = ("ref", "request_id", "results_from", "sealed", "stream_from")

    def __init__(self, job: Reference) -> None:
        """Raises `BadReference`."""
        own = job if isinstance(job, Submission) else None
        self.ref = reference_of(job)
        self.request_id = own.request_id if own else None
        self.sealed = own.sealed if own else False
        self.stream_from = own.stream_from if own else None
        self.results_from = own.results_from if own else None


def no_pointer(answer: Answer) -> Answer:
    """The answer that a pointer meant. One that is a pointer itself is none of ours: keys are bound by accepted jobs.

    Raises:
        CannotOpen: it is one; to follow it might never end.
    """
    if pointed(answer) is not None:
        raise CannotOpen(answer, "it stands for another answer, which is not one itself")
    return answer


class Lookup:
    """Belongs to one client."""

    def __init__(self, log: Log, board: Board, results: Results, sender: Sender, identity: Identity) -> None:
        self._log = log
        self._board = board
        self._results = results
        self._sender = sender
        self._identity = identity

    async def wait(self, sight: Sight) -> Answer:
        """The answer; the caller bounds the time. Raises `CannotOpen`, `DeadLettered`."""
        return self._opened(await self._wait(sight), sight)

    async def until(self, sight: Sight, deadline: float, timeout: float) -> Answer:
        """The same, until `deadline` (of the loop's clock). Raises `NoAnswer` then, which names `timeout`."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self.wait(sight)
        except TimeoutError:
            raise NoAnswer(job=sight.ref, seconds=timeout) from None

    async def peek(self, sight: Sight) -> Answer | None:
        """The answer if it is there already. Raises `CannotOpen`."""
        found = self._board.find(sight.ref.origin) if sight.ref.origin is not None else None
        if found is None:
            found = await self._search(sight, wait=False)
        return self._opened(found, sight) if found is not None else None

    async def is_live(self, ref: JobRef, reply: Mapping[str, Any]) -> bool:
        """Whether the submission is one of those in the scheduler's reply about its job, or lies in the log as a request."""
        if ref.origin is None:
            return bool(reply["submissions"])
        if any(Origin(*live["origin"]) == ref.origin for live in reply["submissions"]):
            return True
        return await requested(self._log, self._identity.tenant, ref.job_id, ref.origin)

    async def _wait(self, sight: Sight) -> Answer:
        board, origin = self._board, sight.ref.origin
        if origin is not None and (board.owes(origin) or board.find(origin) or board.buried(origin)):
            return await self._results.wait(origin)
        answer = await self._search(sight, wait=True)
        assert answer is not None, "a search that waits ends with an answer or by its caller's time-out"
        return answer

    async def _search(self, sight: Sight, *, wait: bool) -> Answer | None:
        partition = await self._sender.partition(sight.ref.job_id)
        sought = Sought(self._identity.tenant, sight.ref, sight.request_id)
        return await search(self._log, partition, sought, sight.results_from, wait=wait)

    def _opened(self, answer: Answer, sight: Sight) -> Answer:
        return self._identity.opening.answer(answer, sealed=sight.sealed)
