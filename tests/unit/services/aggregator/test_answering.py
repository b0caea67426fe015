"""The answer and its receipt: of outcomes, of verdicts, and when the answer is too large."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.channels import output_digest
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import ErrorInfo, Item, Option, Origin, Usage
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.partials import Outcome, Spent, Verdict
from llmos.schemas.results import RESULTS, Stages
from llmos.services.aggregator.answering import ROOM, answer_outcomes, answer_verdict
from tests.kit.bench import NOW, head
from tests.unit.services.aggregator.making import BAD, outcome

HEAD = head(content_digest=b"digest", size=9, admitted_at=NOW - 2, submitted_at=NOW - 3, sealed_at=NOW - 1)


@pytest.mark.parametrize(
    ("parts", "status", "error"),
    [
        pytest.param(["a"], "completed", None, id="one item"),
        pytest.param(["ab", "c"], "completed", None, id="parts"),
        pytest.param(["a!", "c"], "completed", None, id="one bad item fails only itself"),
        pytest.param(["!!", "c"], "completed", None, id="a bad part, too"),
        pytest.param(["!!", "!"], "failed", BAD, id="all bad"),
        pytest.param([""], "completed", None, id="no items at all"),
    ],
)
def test_status(parts: list[str], status: str, error: ErrorInfo | None) -> None:
    """A job is completed unless every item failed; its error is then the first item's."""
    made = answer_outcomes(1, 5, HEAD, [outcome(HEAD, part=i, items=items) for i, items in enumerate(parts)], NOW)
    assert (made.answer.status, made.answer.error) == (status, error)
    assert (made.receipt.status, made.receipt.code) == (status, error.code if error else "")
    assert made.receipt.binds


def test_an_answer_adds_up_its_parts() -> None:
    """Items in the order of parts, usage summed, first dispatch and last finish, the epoch of each part that counts."""
    outcomes = [outcome(HEAD, items="ab"), outcome(HEAD, part=1, items="c", attempt=3, device="node-1.cpu0")]
    made = answer_outcomes(1, 5, HEAD, outcomes, NOW + 9)
    answer = made.answer
    assert [(item.output_index, item.output) for item in answer.items] == [(0, b"a"), (1, b"b"), (10, b"c")]
    assert answer.usage == Usage(tokens_in=4, tokens_out=6, device_seconds=1.0)
    assert answer.epochs == [epoch_of(7, 1), epoch_of(7, 3)]
    assert answer.devices == ["node-0.cpu0", "node-1.cpu0"]
    assert answer.stages == Stages(
        submitted_at=NOW - 3, admitted_at=NOW - 2, sealed_at=NOW - 1, dispatched_at=NOW, started_at=NOW + 1,
        first_output_at=NOW + 2, finished_at=NOW + 4, answered_at=NOW + 9,
    )  # fmt: skip
    assert (answer.partition, answer.s, answer.origin, answer.request_id) == (1, 5, HEAD.origin, HEAD.request_id)
    assert RESULTS.decode(made.value) == answer


def test_a_receipt_is_the_answer_without_its_payload() -> None:
    """It carries what binds the key, what is charged and which credit comes back, and no item."""
    made = answer_outcomes(1, 5, HEAD, [outcome(HEAD, attempt=2), outcome(HEAD, part=1, attempt=3)], NOW)
    receipt = made.receipt
    assert (receipt.job_id, receipt.partition, receipt.s) == (HEAD.job_id, 1, 5)
    assert (receipt.hold, receipt.content_digest, receipt.origin) == (HEAD.hold, b"digest", HEAD.origin)
    assert (receipt.attempts, receipt.usage, receipt.devices) == (5, made.answer.usage, made.answer.devices)
    assert not hasattr(receipt, "items")


def test_a_receipt_says_how_it_was_computed() -> None:
    """Precision of the parts, options of the head, how many parts and items, and which items those were."""
    options = [Option("max_tokens", 8.0)]
    asked = head(options=options)
    parts = [outcome(asked, items="ab", precision="bfloat16"), outcome(asked, part=1, items="c", precision="float32")]
    parts = [_with_digests(part) for part in parts]
    receipt = answer_outcomes(1, 5, asked, parts, NOW).receipt
    assert (receipt.precision, receipt.options) == ("bfloat16, float32", options)
    assert (receipt.part_count, receipt.item_count) == (2, 3)
    assert receipt.output_digest == output_digest([bytes([index]) * 32 for index in (0, 1, 10)])
    assert receipt.signature == b"", "it is signed when all is in it"


def test_without_digests_a_receipt_has_none() -> None:
    """An item whose part could not be opened has no digest: then the receipt does not say which answer it was."""
    parts = [_with_digests(outcome(HEAD, items="ab")), outcome(HEAD, part=1, items="!")]
    receipt = answer_outcomes(1, 5, HEAD, parts, NOW).receipt
    assert (receipt.output_digest, receipt.precision, receipt.item_count) == (b"", "", 3)


def _with_digests(part: Outcome) -> Outcome:
    items = [msgspec.structs.replace(item, digest=bytes([item.output_index]) * 32) for item in part.items]
    return msgspec.structs.replace(part, items=items)


@pytest.mark.parametrize(
    ("verdict", "fields", "binds"),
    [
        ("failed", {"error": BAD, "epoch": epoch_of(7, 4)}, True),
        ("cancelled", {"error": BAD}, True),
        ("expired", {"error": BAD}, True),
        ("refused", {"error": BAD}, False),
        ("pointer", {"original": Origin("requests", 0, 1), "original_s": 3}, False),
    ],
)
def test_verdicts(verdict: Any, fields: dict[str, Any], binds: bool) -> None:
    """A verdict is the whole answer; refusals and pointers bind no key, every other end does."""
    made = answer_verdict(1, Verdict(s=5, head=HEAD, verdict=verdict, **fields), NOW + 1)
    answer = made.answer
    assert (answer.status, answer.items, answer.s) == (verdict, [], 5)
    assert (answer.error, answer.original, answer.original_s) == tuple(
        fields.get(name) for name in ("error", "original", "original_s")
    )
    assert answer.epochs == ([fields["epoch"]] if "epoch" in fields else [])
    assert (answer.stages.sealed_at, answer.stages.dispatched_at) == (NOW - 1, 0.0)
    assert (made.receipt.binds, made.receipt.hold, made.receipt.attempts) == (binds, HEAD.hold, 0)
    assert (made.receipt.part_count, made.receipt.item_count, made.receipt.output_digest) == (0, 0, b"")
    assert RESULTS.decode(made.value) == answer


def test_a_verdict_says_what_was_used_before_it() -> None:
    """Parts that were done by their outcomes, others by what was heard of the last attempt; each part once."""
    done = [outcome(HEAD, part=0, attempt=2, precision="bfloat16"), outcome(HEAD, part=2)]
    spent = [
        Spent(part=2, epoch=epoch_of(7, 1), devices=["node-0.cpu0"], usage=Usage(tokens_in=90)),
        Spent(
            part=1, epoch=epoch_of(7, 3), devices=["node-1.cpu0", "node-2.cpu0"],
            usage=Usage(tokens_in=10, tokens_out=20, device_seconds=0.25),
        ),
        Spent(part=3, epoch=epoch_of(7, 1)),
    ]  # fmt: skip
    made = answer_verdict(1, Verdict(s=5, head=HEAD, verdict="cancelled", error=BAD, spent=spent), NOW + 9, done)
    answer, receipt = made.answer, made.receipt
    assert answer.usage == receipt.usage == Usage(tokens_in=14, tokens_out=26, device_seconds=1.25)
    assert answer.devices == receipt.devices == ["node-0.cpu0", "node-1.cpu0", "node-2.cpu0"]
    assert (receipt.attempts, receipt.part_count, receipt.item_count, receipt.precision) == (7, 2, 0, "bfloat16")
    assert (answer.stages.dispatched_at, answer.stages.finished_at) == (NOW, NOW + 5)
    assert (answer.items, answer.epochs) == ([], [])
    assert RESULTS.decode(made.value) == answer


def test_an_answer_that_fits_no_record_is_a_failure() -> None:
    """Verify's estimate may have been too low: the client hears why, instead of a record that nobody can write."""
    large = outcome(HEAD)
    items = [Item(output_index=i, output=b"x" * (RECORD_BYTES // 2)) for i in range(2)]
    made = answer_outcomes(1, 5, HEAD, [type(large)(task=large.task, head=HEAD, device="d", items=items)], NOW)
    assert made.answer.status == "failed"
    assert made.answer.error is not None
    assert (made.answer.error.code, made.receipt.code, made.answer.items) == ("too_large", "too_large", [])
    assert (made.receipt.part_count, made.receipt.item_count, made.receipt.output_digest) == (1, 0, b"")
    assert len(made.value) < 1000 < ROOM
    assert RESULTS.decode(made.value) == made.answer


def test_the_largest_answer_that_fits_is_kept() -> None:
    """Just below the room nothing is cut."""
    large = outcome(HEAD)
    items = [Item(output_index=0, output=b"x" * (ROOM - 2000))]
    made = answer_outcomes(1, 5, HEAD, [type(large)(task=large.task, head=HEAD, device="d", items=items)], NOW)
    assert made.answer.status == "completed"
    assert ROOM - 2000 < len(made.value) <= ROOM
