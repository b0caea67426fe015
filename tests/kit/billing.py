"""Checks what answers say they used against what lies on the log: nothing that was used goes unbilled, nothing is billed twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from llmos.pipelines.kinds.base import items_of
from llmos.schemas.job import Usage
from llmos.schemas.partials import Outcome, Spent, Verdict
from llmos.schemas.requests import Request
from llmos.schemas.results import Answer, Receipt
from llmos.schemas.tasks import EchoInput
from llmos.schemas.telemetry import Heartbeat, TaskFailed, TasksStopped

VERDICTS = frozenset({"failed", "cancelled", "expired", "refused"})
Tokens = tuple[int, int]
"""Read and written."""
Name = tuple[int, int]
"""Partition and s."""


def price(text: str) -> int:
    """What the emulated engine reads of a text when it begins, and writes when it ends, in tokens."""
    return 1 + len(text)


class Word(NamedTuple):
    """What a worker said of an attempt."""

    name: Name
    part: int
    epoch: int
    tokens: Tokens


def words_of(telemetry: Iterable[object]) -> set[Word]:
    """Everything that workers said of what attempts used."""
    found = set()
    for message in telemetry:
        if isinstance(message, Heartbeat | TasksStopped):
            said = message.progress if isinstance(message, Heartbeat) else message.used
            for one in said:
                task = one.task
                tokens = one.tokens_in, one.tokens_out
                found.add(Word((task.partition, task.s), task.part, task.epoch, tokens))
        elif isinstance(message, TaskFailed):
            task = message.task
            found.add(Word((task.partition, task.s), task.part, task.epoch, _tokens(message.usage)))
    return found


class Bills:
    """What is to be paid, read from `partials` in the order of each partition."""

    def __init__(self, partials: Mapping[int, Iterable[object]]) -> None:
        self._outcomes: dict[Name, dict[int, Outcome]] = {}
        self.verdicts: dict[Name, tuple[Verdict, dict[int, Outcome]]] = {}
        """The first verdict on each submission, and the first outcome of each part before it."""
        for partition, messages in partials.items():
            for message in messages:
                if isinstance(message, Outcome):
                    outcomes = self._outcomes.setdefault((partition, message.task.s), {})
                    outcomes.setdefault(message.task.part, message)
                elif isinstance(message, Verdict):
                    name = partition, message.s
                    self.verdicts.setdefault(name, (message, dict(self._outcomes.get(name, {}))))

    def under_way(self) -> Iterator[tuple[Name, Spent]]:
        """What verdicts say of parts without an outcome."""
        for name, (verdict, done) in self.verdicts.items():
            yield from ((name, spent) for spent in verdict.spent if spent.part not in done)

    def of_verdict(self, name: Name) -> Tokens:
        """What a submission costs that was ended by a verdict: its outcomes, else what was heard of the attempt."""
        verdict, done = self.verdicts[name]
        usages = [outcome.usage for outcome in done.values()]
        usages += [spent.usage for spent in verdict.spent if spent.part not in done]
        return sum(usage.tokens_in for usage in usages), sum(usage.tokens_out for usage in usages)


def unfair(
    answers: Iterable[Answer],
    receipts: Iterable[Receipt],
    requests: Mapping[tuple[str, int, int], Request],
    bills: Bills,
    words: set[Word],
) -> Iterator[str]:
    """Every wrong bill, in words."""
    receipt_of = {(receipt.partition, receipt.s): receipt for receipt in receipts}
    for answer in answers:
        name = answer.partition, answer.s
        receipt = receipt_of.get(name)
        if receipt is not None and (receipt.usage, receipt.devices) != (answer.usage, answer.devices):
            yield f"{name} used {answer.usage} on {answer.devices}, its receipt says {receipt.usage} on {receipt.devices}"
        billed = _tokens(answer.usage)
        origin = answer.origin.topic, answer.origin.partition, answer.origin.offset
        if origin in requests:
            most = _whole_price(requests[origin])
            if max(billed) > most:
                yield f"{name} costs {billed}, and all of it is worth {most}"
        if answer.status in VERDICTS and not answer.items and name in bills.verdicts:
            owed = bills.of_verdict(name)
        else:
            owed = sum(item.tokens_in for item in answer.items), sum(item.tokens_out for item in answer.items)
        if billed != owed:
            yield f"{name} is {answer.status} and costs {billed}, not {owed}"
    for name, spent in bills.under_way():
        tokens = _tokens(spent.usage)
        said = {word.tokens for word in words if (word.name, word.part) == (name, spent.part)}
        if tokens != (0, 0) and tokens not in said:
            yield f"part {spent.part} of {name} is said to have used {tokens}, and no worker said so"


def _tokens(usage: Usage) -> Tokens:
    return usage.tokens_in, usage.tokens_out


def _whole_price(request: Request) -> int:
    texts = items_of(msgspec.msgpack.decode(bytes(request.input), type=EchoInput).text)
    return sum(price(text) for text in texts)
