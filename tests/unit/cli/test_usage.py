"""Sums of receipts: exact, each answer once, in any order, in memory that does not grow with their number."""

from __future__ import annotations

import json
from math import fsum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.cli import usage
from llmos.cli.usage import Filter, Seen, Summing, as_object, columns, saved_lines
from llmos.schemas.errors import OperatorError
from llmos.schemas.ids import job_id
from llmos.schemas.job import Origin, Usage
from llmos.schemas.results import Receipt, Stages

DAY = 86_400.0


def receipt(s: int = 0, **fields: Any) -> Receipt:
    values: dict[str, Any] = {
        "job_id": job_id("acme", str(s)),
        "tenant": "acme",
        "partition": 0,
        "s": s,
        "status": "completed",
        "kind": "generate",
        "model": "ab" * 16,
        "origin": Origin("requests", 0, s),
        "usage": Usage(tokens_in=2, tokens_out=3, device_seconds=0.1),
        "item_count": 1,
        "attempts": 1,
        "stages": Stages(answered_at=10 * DAY + 1),
    }
    return Receipt(**(values | fields))


def summed(receipts: list[Receipt], by: Any = ("tenant",), filter_: Filter | None = None) -> Summing:
    summing = Summing(by, filter_ or Filter())
    for one in receipts:
        summing.add(one, one.stages.answered_at)
    return summing


def test_what_is_summed() -> None:
    """Answers by status, items, attempts, tokens and device time, a row for each group."""
    summing = summed([receipt(0), receipt(1, status="failed", attempts=3), receipt(2, tenant="globex")])
    acme, globex = summing.rows()
    assert as_object(acme, ["tenant"]) == {
        "tenant": "acme", "answers": 2, "completed": 1, "failed": 1, "cancelled": 0, "expired": 0, "refused": 0,
        "pointer": 0, "items": 2, "attempts": 4, "tokens_in": 4, "tokens_out": 6, "device_seconds": 0.2,
    }  # fmt: skip
    assert list(as_object(acme, ["tenant"])) == columns(["tenant"])
    assert (globex.group, globex.answers) == (("globex",), 1)
    assert (summing.total().answers, summing.total().tokens_out) == (3, 9)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (["tenant"], [("acme",), ("globex",)]),
        (["model"], [("",), ("ab" * 16,)]),
        (["kind"], [("echo",), ("generate",)]),
        (["day"], [("1970-01-11",), ("1970-01-12",)]),
        (["kind", "day"], [("echo", "1970-01-12"), ("generate", "1970-01-11")]),
    ],
)
def test_groups(by: Any, groups: list[tuple[str, ...]]) -> None:
    """By any of them, or by several; days are those of UTC."""
    other = receipt(1, tenant="globex", kind="echo", model="", stages=Stages(answered_at=11 * DAY))
    assert [row.group for row in summed([receipt(0), other], by).rows()] == groups


def test_each_answer_counts_once() -> None:
    """A receipt that lies there twice, by whose fault ever, is no second bill; another partition's is another answer."""
    summing = summed([receipt(0), receipt(0), receipt(0, partition=1), receipt(1)])
    assert summing.total().answers == 3
    assert summing.verdicts == {"counted": 3, "again": 1}


def test_what_is_forged_does_not_count() -> None:
    """And does not stand in the way of the true receipt of the same answer."""
    summing = Summing(["tenant"], Filter())
    assert summing.add(receipt(0, tenant="globex"), 1.0, forged=True) == "forged"
    assert summing.add(receipt(0), 1.0) == "counted"
    assert [row.group for row in summing.rows()] == [("acme",)]


def test_filters() -> None:
    """A tenant, and a span of time: the beginning is in, the end is not."""
    receipts = [receipt(s, tenant=("acme", "globex")[s % 2], stages=Stages(answered_at=float(s))) for s in range(10)]
    assert summed(receipts, filter_=Filter("acme")).total().answers == 5
    assert summed(receipts, filter_=Filter("", 3.0, 6.0)).total().answers == 3
    assert summed(receipts, filter_=Filter("nobody")).rows() == []


SECONDS = st.lists(st.floats(0, 1e9, allow_nan=False), max_size=40)


@given(SECONDS, st.randoms(use_true_random=False))
def test_a_bill_does_not_depend_on_the_order(seconds: list[float], random: Any) -> None:
    """Device time is summed exactly and rounded once, over the groups as well as over all."""
    receipts = [
        receipt(s, tenant=("acme", "globex")[s % 2], usage=Usage(device_seconds=value))
        for s, value in enumerate(seconds)
    ]
    random.shuffle(receipts)
    summing = summed(receipts)
    assert summing.total().device_seconds == fsum(seconds)
    for row in summing.rows():
        own = [value for s, value in enumerate(seconds) if ("acme", "globex")[s % 2] == row.group[0]]
        assert row.device_seconds == fsum(own)


@given(st.lists(st.integers(0, 60)))
def test_seen_is_a_set(numbers: list[int]) -> None:
    """Against a set, and never more runs than there are."""
    seen, found = Seen(), set[int]()
    for number in numbers:
        assert seen.add(number) == (number not in found)
        found.add(number)
        assert len(seen) == sum(n - 1 not in found for n in found)


def test_seen_does_not_grow_with_what_it_has_seen() -> None:
    """The answers of a partition end about in the order in which they were asked for."""
    seen, most = Seen(), 0
    for block in range(0, 20_000, 10):
        for number in (3, 1, 0, 2, 9, 8, 5, 4, 7, 6):
            assert seen.add(block + number)
            most = max(most, len(seen))
    assert (len(seen), most <= 6) == (1, True)


def test_more_rows_than_fit_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a process that runs out of memory."""
    monkeypatch.setattr(usage, "ROWS", 2)
    with pytest.raises(OperatorError, match="fewer groups"):
        summed([receipt(s, tenant=f"t{s}") for s in range(3)])


def test_a_saved_line_that_is_none_is_told_with_its_number() -> None:
    """Whoever was sent a file learns where it is broken."""
    good = json.dumps({"partition": 0, "offset": 1, "written_at": 1.0, "record": ""}).encode()
    assert [saved.offset for saved in saved_lines(iter([good, good]))] == [1, 1]
    with pytest.raises(OperatorError, match="line 2"):
        list(saved_lines(iter([good, b"{}"])))
