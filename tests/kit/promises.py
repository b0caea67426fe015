"""Checks the promises on what lies on the log: every readable submission has exactly one answer, and the right one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from llmos.infra.crypto.receipts import check_answer
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Record
from llmos.pipelines.kinds.base import items_of
from llmos.schemas import topics
from llmos.schemas.control import CONTROL, Cancel
from llmos.schemas.dead import DEAD
from llmos.schemas.errors import RecordError
from llmos.schemas.ids import job_id
from llmos.schemas.partials import PARTIALS
from llmos.schemas.requests import REQUESTS, Request
from llmos.schemas.results import RESULTS, USAGE, Answer, Receipt
from llmos.schemas.tasks import EchoInput, EchoOutput
from llmos.schemas.telemetry import TELEMETRY
from tests.kit.billing import Bills, unfair, words_of

Origin = tuple[str, int, int]
_ACCEPTED = frozenset({"completed", "failed", "cancelled", "expired"})


class Ledger:
    """What was asked and what was answered, read from the log in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.requests: dict[Origin, Request] = {}
        self.unreadable: set[Origin] = set()
        for topic in topics.REQUESTS.values():
            for record in _visible(broker, topic):
                origin = (topic, record.place.partition, record.offset)
                try:
                    self.requests[origin] = REQUESTS.decode(record.value)
                except RecordError:
                    self.unreadable.add(origin)
        self.copies = _copies(self.requests)
        """Of signed requests: each is dead, or answered where the ledger had been emptied since."""
        self.answers: list[Answer] = [RESULTS.decode(r.value) for r in _visible(broker, topics.RESULTS)]
        self.receipts: list[Receipt] = [USAGE.decode(r.value) for r in _visible(broker, topics.USAGE)]
        self.dead: set[Origin] = {
            (letter.origin.topic, letter.origin.partition, letter.origin.offset)
            for letter in (DEAD.decode(r.value) for r in _visible(broker, topics.DEAD))
        }
        self.cancels: list[Cancel] = [
            message
            for message in (CONTROL.decode(r.value) for r in _visible(broker, topics.CONTROL))
            if isinstance(message, Cancel)
        ]
        self.bills = Bills(
            {
                partition: [PARTIALS.decode(entry.record.value) for entry in stored]
                for partition, stored in broker.dump(topics.PARTIALS).items()
            }
        )
        self.words = words_of(TELEMETRY.decode(r.value) for r in _visible(broker, topics.TELEMETRY))

    def missing(self) -> set[Origin]:
        """Submissions without an answer."""
        return set(self.requests) - {_origin(answer) for answer in self.answers} - (self.copies & self.dead)

    def violations(self) -> list[str]:
        """Every broken promise, in words."""
        return [
            *self._exactly_once(),
            *self._receipts(),
            *self._dead(),
            *self._right(),
            *self._keys(),
            *self._cancels(),
            *self._bills(),
        ]

    def _exactly_once(self) -> Iterable[str]:
        counts = Counter(_origin(answer) for answer in self.answers)
        yield from (f"{origin} has no answer" for origin in sorted(self.missing()))
        yield from (f"{origin} has {n} answers" for origin, n in sorted(counts.items()) if n > 1)
        yield from (f"{origin} was never asked" for origin in sorted(set(counts) - set(self.requests)))

    def _receipts(self) -> Iterable[str]:
        answers = Counter((a.partition, a.s) for a in self.answers)
        receipts = Counter((r.partition, r.s) for r in self.receipts)
        if answers != receipts:
            yield f"answers and receipts differ: {sorted((answers - receipts) + (receipts - answers))}"
        by_place = {(r.partition, r.s): r for r in self.receipts}
        for answer in self.answers:
            receipt = by_place.get((answer.partition, answer.s))
            digests = [item.digest for item in answer.items]
            if receipt is not None and not (check_answer(receipt, digests) and all(digests) and receipt.signature):
                yield f"({answer.partition}, {answer.s}) is not the answer that its receipt is signed for"

    def _dead(self) -> Iterable[str]:
        yield from (f"{origin} is unreadable and not dead" for origin in sorted(self.unreadable - self.dead))
        yield from (f"{origin} is readable and dead" for origin in sorted(self.dead & set(self.requests) - self.copies))

    def _right(self) -> Iterable[str]:
        for answer in self.answers:
            request = self.requests.get(_origin(answer))
            if request is None or answer.status != "completed":
                continue
            asked = items_of(msgspec.msgpack.decode(bytes(request.input), type=EchoInput).text)
            got = [msgspec.msgpack.decode(item.output, type=EchoOutput).text for item in answer.items]
            if asked != got:
                yield f"{_origin(answer)} asked for {asked} and got {got}"

    def _keys(self) -> Iterable[str]:
        """The first accepted job binds its key; later submissions point to it or conflict with it."""
        by_job: dict[bytes, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            by_job[answer.job_id].append(answer)
        for answers in by_job.values():
            answers.sort(key=lambda answer: answer.s)
            accepted = [answer for answer in answers if answer.status in _ACCEPTED]
            if len(accepted) > 1:
                yield f"one key, several jobs: {[(a.partition, a.s, a.status) for a in accepted]}"
            if not accepted:
                continue
            bound = accepted[0]
            for answer in answers:
                if answer is bound:
                    continue
                same = self._content(answer) == self._content(bound)
                right = answer.status == ("pointer" if same else "refused")
                if not right or answer.s < bound.s or (same and answer.original_s != bound.s):
                    yield f"({answer.partition}, {answer.s}) repeats ({bound.partition}, {bound.s}) and is {answer.status}"

    def _content(self, answer: Answer) -> bytes:
        return bytes(self.requests[_origin(answer)].input)

    def _cancels(self) -> Iterable[str]:
        """A cancel hits submissions made no later, and no others."""
        for answer in self.answers:
            request = self.requests.get(_origin(answer))
            if request is None:
                continue
            name = job_id(request.tenant, request.idempotency_key or request.request_id)
            times = [c.at for c in self.cancels if c.job_id == name]
            if answer.status == "cancelled" and not any(at >= request.submitted_at for at in times):
                yield f"{_origin(answer)} was cancelled and nobody asked for it"
            if request.request_id.startswith("cancelled-before") and answer.status != "cancelled":
                yield f"{_origin(answer)} was cancelled before it came and is {answer.status}"

    def _bills(self) -> Iterator[str]:
        yield from unfair(self.answers, self.receipts, self.requests, self.bills, self.words)


def _copies(requests: dict[Origin, Request]) -> set[Origin]:
    """Those whose nonce came before, further up in the same partition."""
    first: dict[bytes, Origin] = {}
    for origin in sorted(requests):
        if requests[origin].mac:
            first.setdefault(requests[origin].nonce, origin)
    return {origin for origin, request in requests.items() if request.mac and first[request.nonce] != origin}


def _origin(answer: Answer) -> Origin:
    return answer.origin.topic, answer.origin.partition, answer.origin.offset


def _visible(broker: MemoryBroker, topic: str) -> Iterable[Record]:
    for stored in broker.dump(topic).values():
        for entry in stored:
            if entry.state in ("plain", "committed"):
                yield entry.record
