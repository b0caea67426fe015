"""Outcomes and verdicts with sensible fields."""

from __future__ import annotations

from typing import Any

from llmos.schemas.ids import epoch_of
from llmos.schemas.job import ErrorInfo, Head, Item, Task, Times, Usage
from llmos.schemas.partials import Outcome
from tests.kit.bench import NOW

BAD = ErrorInfo(code="engine_failed", message="a bad item", retryable=True)


def outcome(head: Head, s: int = 5, part: int = 0, items: str = "a", attempt: int = 1, **fields: Any) -> Outcome:
    """The outcome of a part; a letter an item, `!` is an item that failed."""
    values: dict[str, Any] = {
        "device": "node-0.cpu0",
        "usage": Usage(tokens_in=2, tokens_out=3, device_seconds=0.5),
        "times": Times(
            dispatched_at=NOW + part, started_at=NOW + part + 1, first_output_at=NOW + part + 2,
            finished_at=NOW + part + 3,
        ),
    }  # fmt: skip
    found = [
        Item(output_index=part * 10 + i, error=BAD) if letter == "!" else Item(output_index=part * 10 + i, output=letter.encode())
        for i, letter in enumerate(items)
    ]  # fmt: skip
    return Outcome(task=Task(1, s, part, epoch_of(7, attempt)), head=head, items=found, **(values | fields))
