"""The command against a whole system, as a user types it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.stack import Stack

pytestmark = pytest.mark.timeout(600)

SECONDS = 120.0


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Of a command with `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A whole system with one worker."""
    async with Stack.start(tmp_path, node={"cpu_devices": 1}) as stack:
        yield stack


async def llmos(stack: Stack, *words: str, stdin: str = "") -> Said:
    """Runs `llmos` for the stack's state directory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llmos", "--state-directory", str(stack.directory), *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = Said(process.returncode or 0, out.decode(), err.decode())
    assert "Traceback" not in said.err, said.err
    return said


async def test_a_user_gets_round(stack: Stack) -> None:
    """Submit, list from standard input, stream, attach after the end, result, show, status, refusal, down."""
    said = await llmos(stack, "submit", "echo", "hello")
    assert (said.code, said.out) == (0, "hello\n"), said
    said = await llmos(stack, "submit", "echo", "-", stdin="one\n\ntwo\n")
    assert said.out == "[0] one\n[1] \n[2] two\n", said

    said = await llmos(stack, "submit", "generate", "ROMEO:", "--stream", "--json", "--max-tokens", "8")
    *events, final = said.lines
    assert final["answer"]["status"] == "completed", said
    text = final["answer"]["outputs"][0]["text"]
    assert "".join(event["text"] for event in events if event["event"] == "tokens") == text
    assert final["replaced"] == {}
    reference, job = final["answer"]["reference"], final["answer"]["job"]

    for name in (reference, job):
        assert (await llmos(stack, "attach", name)).out == f"{text}\n"
        assert (await llmos(stack, "result", name, "--json")).lines == [final["answer"]]
    said = await llmos(stack, "jobs", "show", reference)
    assert "answer: completed" in said.out, said
    assert "first_output" in said.out, said

    # Sealed by default: to the tenant's key, which the next command has as well, or to a key that ends with its command.
    said = await llmos(stack, "result", reference, "--tenant", "acme")
    assert said.code == 1, said
    assert "no such job" in said.err, said
    (private,) = (await llmos(stack, "submit", "echo", "hello", "--reply", "ephemeral", "--json")).lines
    assert private["outputs"] == [{"text": "hello"}]
    said = await llmos(stack, "result", private["reference"], "--json")
    assert (said.code, said.lines[0]["error"]["code"]) == (1, "cannot_open"), said
    assert "answer: completed" in (await llmos(stack, "jobs", "show", private["reference"])).out

    said = await llmos(stack, "submit", "embed", "a", "b", "--json")
    assert [len(output["embedding"]) for output in said.lines[0]["outputs"]] == [384, 384]
    (device,) = (await llmos(stack, "devices", "--json")).lines
    assert {resident["name"] for resident in device["residents"]} == {"shakespeare-decoder", "minilm-l6-v2"}
    models = (await llmos(stack, "models", "list", "--json")).lines
    assert {model["name"] for model in models} >= {"shakespeare-decoder", "minilm-l6-v2"}
    assert "live jobs" in (await llmos(stack, "status")).out

    said = await llmos(stack, "submit", "generate", "x", "--model", "no-such-model")
    assert said.code == 2, said
    assert "no-such-model" in said.err, said

    said = await llmos(stack, "down")
    assert (said.code, said.out.split()[0]) == (0, "stopped"), said
    said = await llmos(stack, "status")
    assert said.code == 78, said
    assert "llmos up" in said.err, said
