"""Every example runs against a whole system and prints what it promises."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmos.infra.crypto.credentials import credentials_file
from tests.stack import Stack

pytestmark = pytest.mark.timeout(600)

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 180.0

PROMISED = {
    "bare_msgpack.py": ["event: running", "event: '", "status: completed", "text: "],
    "bare_sealed.py": ["event: '", "status: completed", "text: "],
    "sealed_client.py": ["streamed: ", "echo: for my eyes only", "read again: ", "closed: The answer to job"],
    "bare_json.py": ["status: completed", "text: hello", "text: wörld"],
    "async_client.py": [
        "streamed: ",
        "embedded: [384, 384]",
        "echoed: 100",
        "refused: Job",
        "No model named 'no-such-model'",
        "dead-lettered: ",
        "no tenant 'nobody'",
    ],
    "blocking_client.py": ["job: ", "@requests:", "echo: hello"],
}

SEALED = {"bare_sealed.py", "sealed_client.py"}
"""They are given the tenant's credentials, too."""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A whole system with one worker."""
    async with Stack.start(tmp_path, node={"cpu_devices": 1}) as stack:
        yield stack


async def test_every_example_runs(stack: Stack) -> None:
    """What the README names runs as it says; no example is left out."""
    assert set(PROMISED) == {path.name for path in await asyncio.to_thread(lambda: list(EXAMPLES.glob("*.py")))}
    for example, promised in PROMISED.items():
        code, said = await run(example, stack)
        assert code == 0, said
        for line in promised:
            assert line in said, f"{example} does not say {line!r}:\n{said}"
        if example == "async_client.py":
            assert len(set(re.findall(r"job: ([0-9a-f]{32}) completed", said))) == 1, said


async def run(example: str, stack: Stack) -> tuple[int, str]:
    """Runs an example as a user does; gives its exit code and all that it printed."""
    kafka = stack.settings.kafka
    credentials = credentials_file(stack.directory, "demo")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / example),
        kafka.bootstrap,
        *([str(credentials)] if example in SEALED else []),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LLMOS_KAFKA__TOPIC_PREFIX": kafka.topic_prefix},
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()
