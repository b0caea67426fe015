"""Receipts of a whole system: signed, summed and checked by the command, also away from the system."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmos.cli.usage import saved_lines
from llmos.schemas.results import USAGE
from tests.e2e.test_cli import llmos
from tests.stack import Stack

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A whole system with one worker."""
    async with Stack.start(tmp_path / "system", node={"cpu_devices": 1}) as stack:
        yield stack


async def test_usage_is_summed_and_checked(stack: Stack, tmp_path: Path) -> None:
    """What was asked is what is billed; precision and options are in the receipts; the saved file is checked elsewhere."""
    for words in (
        ["submit", "echo", "hello"],
        ["submit", "generate", "ROMEO:", "--max-tokens", "8", "--temperature", "0.5"],
        ["submit", "generate", "ROMEO:", "--model", "nowhere"],
    ):
        await llmos(stack, *words)
    file = tmp_path / "receipts.jsonl"
    said = await llmos(stack, "usage", "--by", "kind", "--check", "--json", "--save", str(file))
    assert said.code == 0, said
    assert [(row["kind"], row["answers"], row["completed"], row["refused"]) for row in said.lines] == [
        ("echo", 1, 1, 0),
        ("generate", 2, 1, 1),
    ]
    assert said.lines[1]["tokens_out"] == 8
    assert "all 3 receipts are as they were signed" in said.err
    receipts = [USAGE.decode(saved.record) for saved in saved_lines(iter(file.read_bytes().splitlines()))]
    (generated,) = [receipt for receipt in receipts if receipt.kind == "generate" and receipt.status == "completed"]
    assert (generated.precision, generated.part_count, generated.item_count) == ("float32", 1, 1)
    assert {(option.name, option.value) for option in generated.options} == {("max_tokens", 8.0), ("temperature", 0.5)}
    assert generated.output_digest
    keys = (stack.directory / "public-keys.json").read_bytes()
    (tmp_path / "keys.json").write_bytes(keys)
    words = ["usage", "--file", str(file), "--check", "--public-keys", str(tmp_path / "keys.json"), "--csv"]
    said = await llmos(stack, *words)
    assert (said.code, said.out.splitlines()[1].split(",")[:2]) == (0, ["demo", "3"]), said
