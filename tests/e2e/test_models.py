"""Models that are dropped in, damaged, put back and taken away while a whole system runs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import llmos
from llmos.client import Answer, Client
from tests.kit.live import SECONDS, clean_environment, until
from tests.kit.load import GENERATE
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SHIPPED = Path(llmos.__file__).parent / "models" / GENERATE


def put(place: Path, salt: str) -> Path:
    """A model of its own identity: the shipped one with white space in its configuration."""
    shutil.copytree(SHIPPED, place)
    (place / "config.json").write_text((place / "config.json").read_text() + salt)
    return place


def flip(path: Path) -> None:
    """Another last bit, in place."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with one model."""
    directory = tmp_path_factory.mktemp("root")
    put(directory / "bard", "\n")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, root: Path) -> AsyncIterator[Stack]:
    """One system with two workers for all tests, which looks at its models five times a second."""
    node = {"cpu_devices": 2, "models_directories": [root], "models_watch_seconds": 0.2}
    with clean_environment():
        directory = tmp_path_factory.mktemp("models")
        async with Stack.start(directory, node=node, embedded={"kafka_heap": "256m"}) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[Client]:
    """The demo tenant's client."""
    async with Client(stack.settings) as client:
        yield client


async def asked(client: Client, model: str) -> Answer:
    """A short answer of a model."""
    submission = await client.submit("generate", {"prompt": "ROMEO:", "max_tokens": 2}, model=model, timeout=SECONDS)
    return await client.result(submission, SECONDS)


async def until_code(client: Client, model: str, code: str) -> Answer:
    """Asks until the answer has this code; empty: until it is completed."""
    return await until(lambda: asked(client, model), lambda answer: (answer.error.code if answer.error else "") == code)


async def test_a_damaged_model_is_refused_until_whole_files_are_back(client: Client, root: Path) -> None:
    """With the reason; the model beside it never notices."""
    assert (await asked(client, "bard")).status == "completed"
    weights = root / "bard" / "model.safetensors"
    await asyncio.to_thread(flip, weights)
    refused = await until_code(client, "bard", "model_quarantined")
    assert refused.error is not None
    assert "model.safetensors does not have the bytes any more" in refused.error.message
    assert (await asked(client, GENERATE)).status == "completed"
    await asyncio.to_thread(flip, weights)
    await until_code(client, "bard", "")


async def test_a_model_that_is_dropped_in_is_there_and_one_that_is_taken_away_is_gone(
    client: Client, root: Path
) -> None:
    """Without a restart."""
    assert (await until_code(client, "house/poet", "unknown_model")).status == "refused"
    place = await asyncio.to_thread(put, root / "house" / "poet", "\n\n")
    await until_code(client, "house/poet", "")
    await asyncio.to_thread(shutil.rmtree, place)
    await until_code(client, "house/poet", "model_gone")


async def test_a_restarted_worker_reads_nothing_again(client: Client, stack: Stack) -> None:
    """What the node has is told of as before, with the same time of verification."""
    before = (await client.query("models"))["nodes"]
    pid = await stack.kill("worker-node-0.cpu0")
    await stack.back("worker-node-0.cpu0", pid)
    assert (await client.query("models"))["nodes"] == before
