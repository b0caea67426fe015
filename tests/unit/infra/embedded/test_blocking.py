"""The guard of the test run itself: our code may not block the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from blockbuster import BlockingError

from llmos.infra.embedded.directory import write_json


async def test_blocking_code_on_the_loop_is_caught(tmp_path: Path) -> None:
    """A function meant for a thread fails when it is called on the loop."""
    with pytest.raises(BlockingError):
        write_json(tmp_path / "a.json", {})


@pytest.mark.may_block
async def test_a_marked_test_may_block(tmp_path: Path) -> None:
    """The mark switches the guard off for one test."""
    write_json(tmp_path / "a.json", {})
