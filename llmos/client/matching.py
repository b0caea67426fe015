"""Which of all answers that pass belong to this client, and which of several answers to one job id counts; pure.

An answer is matched by its origin, the offset that the submission's acknowledgement named, and must name its request id. It
can be read before that acknowledgement is back; until then the request id alone says that it may be ours and must be kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from llmos.client.errors import DeadLettered
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer

KEEP_ANSWERS = 10_000
KEEP_BYTES = 64 * 1024 * 1024
OWED = 1_000_000
"""Submissions remembered without an answer. Some are never answered within a client's life, so there must be a bound."""
KEEP_DEAD = 10_000
"""Dead letters remembered, whosever they are: one may be read before the acknowledgement that tells whose it is."""


class BoardUse(NamedTuple):
    """What a board holds."""

    sending: int
    owed: int
    kept: int
    kept_bytes: int


class Board:
    """The answers that are owed to this client, and the latest that came."""

    __slots__ = ("_bytes", "_dead", "_keep_answers", "_keep_bytes", "_kept", "_owed", "_sending")

    def __init__(self, keep_answers: int = KEEP_ANSWERS, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep_answers = keep_answers
        self._keep_bytes = keep_bytes
        self._sending: Counter[str] = Counter()
        self._owed: OrderedDict[Origin, tuple[str, bytes]] = OrderedDict()
        """With the request id and the job id that the answer must name."""
        self._kept: OrderedDict[Origin, tuple[Answer, int]] = OrderedDict()
        self._dead: OrderedDict[Origin, DeadLettered] = OrderedDict()
        self._bytes = 0

    def sending(self, request_id: str) -> None:
        """A request is about to be sent: answers with its request id are kept from now on."""
        self._sending[request_id] += 1

    def not_sent(self, request_id: str) -> None:
        """The request's fate is not known, or it was never sent."""
        self._sending[request_id] -= 1
        if self._sending[request_id] <= 0:
            del self._sending[request_id]

    def sent(self, request_id: str, origin: Origin, job_id: bytes) -> None:
        """The request was acknowledged at `origin`."""
        self.not_sent(request_id)
        kept = self._kept.get(origin)
        if kept is not None and (kept[0].request_id, kept[0].job_id) != (request_id, job_id):
            self._drop(origin)
            kept = None
        if kept is None and origin not in self._dead:
            self._owed[origin] = (request_id, job_id)
            if len(self._owed) > OWED:
                self._owed.popitem(last=False)

    def wants(self, origin: Origin, request_id: str, job_id: bytes) -> bool:
        """Whether an answer is (or may be) this client's; asked before it is decoded whole.

        One that names the origin of a submission and another's request or job was put there by somebody: it is none.
        """
        owed = self._owed.get(origin)
        return owed == (request_id, job_id) if owed is not None else request_id in self._sending

    def note(self, answer: Answer, size: int) -> None:
        """Keeps an answer of `size` bytes; the oldest ones make room."""
        self._owed.pop(answer.origin, None)
        self._drop(answer.origin)
        self._kept[answer.origin] = (answer, size)
        self._bytes += size
        while len(self._kept) > self._keep_answers or (self._bytes > self._keep_bytes and len(self._kept) > 1):
            self._bytes -= self._kept.popitem(last=False)[1][1]

    def _drop(self, origin: Origin) -> None:
        kept = self._kept.pop(origin, None)
        if kept is not None:
            self._bytes -= kept[1]

    def bury(self, origin: Origin, why: DeadLettered) -> None:
        """The request at `origin` became a dead letter: no answer is owed."""
        self._owed.pop(origin, None)
        self._dead[origin] = why
        if len(self._dead) > KEEP_DEAD:
            self._dead.popitem(last=False)

    def buried(self, origin: Origin) -> DeadLettered | None:
        """Why there will be no answer, where the request became a dead letter."""
        return self._dead.get(origin)

    def find(self, origin: Origin) -> Answer | None:
        """The answer, if it came and is still kept."""
        kept = self._kept.get(origin)
        return kept[0] if kept else None

    def owes(self, origin: Origin) -> bool:
        """Whether the answer is still to come, past what was read so far."""
        return origin in self._owed

    def statistics(self) -> BoardUse:
        """What is held."""
        return BoardUse(self._sending.total(), len(self._owed), len(self._kept), self._bytes)


def better(before: Answer | None, new: Answer) -> Answer:
    """Of two answers to one job id, `new` being the later: the one that tells more.

    Refusals and pointers bind nothing, so a result counts more than either; else the later one counts.
    """
    if before is None or (before.status in _BIND_NOTHING) >= (new.status in _BIND_NOTHING):
        return new
    return before


_BIND_NOTHING = frozenset({"refused", "pointer"})
