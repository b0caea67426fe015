"""Sums receipts: who used what, by tenant, model, kind or day; each answer once. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import fsum, inf
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from llmos.infra.wording import in_words
from llmos.schemas.errors import OperatorError
from llmos.schemas.results import Receipt, Status

By = Literal["tenant", "model", "kind", "day"]
BY: Final[tuple[By, ...]] = get_args(By)
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
ROWS: Final = 100_000
"""Rows of a sum at most: so much fits in memory whatever lies on the topic."""
Verdict = Literal["counted", "other", "again", "forged"]
"""A receipt counts; it is not among those that were asked for; its answer was counted before; its signature is wrong."""


class Filter(NamedTuple):
    """Which receipts are meant."""

    tenant: str = ""
    """Empty: all."""
    since: float = 0.0
    until: float = inf
    """When the receipt was written (Unix seconds): from `since` on, before `until`."""

    def means(self, receipt: Receipt, at: float) -> bool:
        """Whether it means a receipt that was written at `at`."""
        return self.since <= at < self.until and self.tenant in ("", receipt.tenant)


@dataclass(slots=True)
class Row:
    """What the receipts of one group add up to."""

    group: tuple[str, ...]
    answers: int = 0
    items: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    _seconds: list[float] = field(default_factory=list)
    """Partial sums of the device-seconds, exact together (Shewchuk 1997, as `math.fsum`): no order of receipts changes
    a bill."""

    @property
    def device_seconds(self) -> float:
        """Device time, in seconds, rounded once."""
        return fsum(self._seconds)

    def add(self, receipt: Receipt) -> None:
        """One more answer."""
        self.answers += 1
        self.items += receipt.item_count
        self.tokens_in += receipt.usage.tokens_in
        self.tokens_out += receipt.usage.tokens_out
        self.attempts += receipt.attempts
        self.by_status[receipt.status] += 1
        self._seconds = _exact(self._seconds, receipt.usage.device_seconds)

    def take(self, other: Row) -> None:
        """All of another row."""
        self.answers += other.answers
        self.items += other.items
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.attempts += other.attempts
        self.by_status += other.by_status
        for part in other._seconds:
            self._seconds = _exact(self._seconds, part)


class Summing:
    """Adds receipts up, those of each group, in memory that does not grow with their number."""

    def __init__(self, by: Sequence[By], filter_: Filter) -> None:
        self._by = tuple(by)
        self._filter = filter_
        self._rows: dict[tuple[str, ...], Row] = {}
        self._seen: dict[int, Seen] = {}
        self.verdicts: Counter[Verdict] = Counter()

    def add(self, receipt: Receipt, at: float, forged: bool = False) -> Verdict:
        """Takes a receipt that was written at `at` (Unix seconds).

        Raises:
            OperatorError: there are more groups than fit in memory.
        """
        verdict = self._judge(receipt, at, forged)
        self.verdicts[verdict] += 1
        if verdict == "counted":
            self._row(receipt).add(receipt)
        return verdict

    def means(self, receipt: Receipt, at: float) -> bool:
        """Whether it is among those that were asked for."""
        return self._filter.means(receipt, at)

    def rows(self) -> list[Row]:
        """The sums, in the order of their groups."""
        return [self._rows[group] for group in sorted(self._rows)]

    def total(self) -> Row:
        """The sum of all rows."""
        total = Row(("",) * len(self._by))
        for row in self._rows.values():
            total.take(row)
        return total

    def _judge(self, receipt: Receipt, at: float, forged: bool) -> Verdict:
        if not self.means(receipt, at):
            return "other"
        if forged:
            return "forged"
        return "counted" if self._seen.setdefault(receipt.partition, Seen()).add(receipt.s) else "again"

    def _row(self, receipt: Receipt) -> Row:
        group = tuple(_group(receipt, by) for by in self._by)
        row = self._rows.get(group)
        if row is None:
            if len(self._rows) >= ROWS:
                raise OperatorError(problem=f"the usage has more than {ROWS} rows; ask for fewer groups or less time")
            row = self._rows[group] = Row(group)
        return row


class Seen:
    """A set of numbers that mostly come in runs, kept as those runs: the submissions of a partition are numbered through,
    so that the answered ones are few runs however many there are."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        """First number behind each run."""

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._begins)

    def add(self, number: int) -> bool:
        """Adds it; whether it was not there."""
        at = bisect_right(self._begins, number)
        if at and number < self._ends[at - 1]:
            return False
        after = at < len(self._begins) and self._begins[at] == number + 1
        if at and self._ends[at - 1] == number:
            self._ends[at - 1] = self._ends.pop(at) if after else number + 1
            if after:
                del self._begins[at]
        elif after:
            self._begins[at] = number
        else:
            self._begins.insert(at, number)
            self._ends.insert(at, number + 1)
        return True


def as_object(row: Row, by: Sequence[By]) -> dict[str, Any]:
    """A row as JSON and CSV have it: its group, then the sums in base units."""
    return {
        **dict(zip(by, row.group, strict=True)),
        "answers": row.answers,
        **{status: row.by_status[status] for status in STATUSES},
        "items": row.items,
        "attempts": row.attempts,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "device_seconds": row.device_seconds,
    }


def columns(by: Sequence[By]) -> list[str]:
    """The names of `as_object`'s fields."""
    return list(as_object(Row(("",) * len(by)), by))


def _group(receipt: Receipt, by: By) -> str:
    if by == "day":
        return datetime.fromtimestamp(receipt.stages.answered_at, UTC).date().isoformat()
    return str(getattr(receipt, by))


def _exact(parts: list[float], value: float) -> list[float]:
    """Partial sums that do not overlap, with `value` added: together exactly the sum (Shewchuk 1997, Grow-Expansion)."""
    grown = []
    for part in parts:
        large, small = (value, part) if abs(value) >= abs(part) else (part, value)
        value = large + small
        rest = small - (value - large)
        if rest:
            grown.append(rest)
    return [*grown, value]


class Saved(msgspec.Struct, frozen=True):
    """A receipt in a file: one JSON object a line, the record as it lay on the topic in base64."""

    partition: int
    offset: int
    written_at: float
    """Unix seconds, by the log's clock."""
    record: bytes


def saved_lines(lines: Iterator[bytes]) -> Iterator[Saved]:
    """The receipts in a file's lines. Raises `OperatorError`, with the line, where one is none."""
    for number, line in enumerate(lines, 1):
        try:
            yield msgspec.json.decode(line, type=Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise OperatorError(problem=f"line {number} holds no saved receipt: {in_words(problem)}") from None
