"""What a worker says of its node's models in `catalog`: at the start, when directories change, when asked to verify."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

import llmos
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.pipelines.models import hashing
from llmos.pipelines.models.contents import SINGLE
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.base import Message, encode
from llmos.schemas.catalog import CATALOG, Model, NodeModels, node_models_key
from llmos.schemas.control import ModelOrder
from llmos.services.worker.catalog import ModelWatch
from tests.kit.bench import NOW, HandClock, configured, context

SHIPPED = Path(llmos.__file__).parent / "models" / "shakespeare-decoder"
WATCH = {"models_watch_seconds": 0.01}
CATALOG_PLACE = Place("catalog", 0)


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "RACY_NANOSECONDS", 0)


class Node:
    """A node with one model in its directory, and its catalog."""

    def __init__(self, tmp_path: Path) -> None:
        self.broker = MemoryBroker(HandClock())
        self.state = tmp_path / "models.json"
        self.root = tmp_path / "models"
        self.model = Path(shutil.copytree(SHIPPED, self.root / "decoder"))
        # as if it had been there for an hour: what is new is left until it is quiet
        (self.identity,) = ModelStore([self.model]).scan().models
        self.read = 0

    def context(self, name: str = "x") -> Context:
        """A worker of a node."""
        return context(HandClock(), configured(node={"name": name, **WATCH}), self.broker, "worker")

    def watch(self, ctx: Context, *roots: Path) -> ModelWatch:
        """A worker's watch."""
        return ModelWatch(ctx, ModelStore(list(roots) or [self.root], self.state))

    def news(self) -> list[Message]:
        """What was written to `catalog` since the last question."""
        stored = [entry.record.value or b"" for entry in self.broker.dump("catalog")[0] if entry.state == "plain"]
        new, self.read = stored[self.read :], len(stored)
        return [CATALOG.decode(value) for value in new]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@contextlib.asynccontextmanager
async def running(watch: ModelWatch) -> AsyncIterator[None]:
    """Runs the watch beside a test."""
    task = asyncio.create_task(watch.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def told(node: Node, count: int = 1) -> list[Message]:
    """The next records of the catalog."""
    found: list[Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            await asyncio.sleep(0)
            found += node.news()
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def flip(path: Path) -> None:
    """Another last byte."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


async def test_the_first_start_tells_of_models_and_of_the_node(node: Node) -> None:
    """The model as its manifest has it, and which the node has whole."""
    watch = node.watch(node.context())
    assert await watch.start() == [node.identity] == watch.models
    model, has = node.news()
    assert isinstance(model, Model)
    assert isinstance(has, NodeModels)
    assert (model.identity, model.name, model.kinds, model.native) == (node.identity, "decoder", ["generate"], True)
    assert (model.kv_bytes_per_token, model.chat, model.licence) == (3072, False, "apache-2.0")
    assert (has.node, has.at, has.models, has.quarantined) == ("x", NOW, [node.identity], [])
    assert has.verified_at > NOW


async def test_a_later_start_and_another_worker_have_nothing_to_tell(node: Node) -> None:
    """What is in the catalog is not written again."""
    ctx = node.context()
    await node.watch(ctx).start()
    node.news()
    await node.watch(ctx).start()
    await node.watch(node.context()).start()
    assert node.news() == []


async def test_another_node_tells_of_itself_alone(node: Node) -> None:
    """The model is known already; the name that it was first given stays, whatever the folder is called there."""
    await node.watch(node.context()).start()
    node.news()
    other = await asyncio.to_thread(shutil.copytree, SHIPPED, node.root.parent / "others" / "another-name")
    await node.watch(node.context("y"), Path(other)).start()
    (has,) = node.news()
    assert isinstance(has, NodeModels)
    assert (has.node, has.models) == ("y", [node.identity])


async def test_a_renamed_directory_renames_the_model(node: Node) -> None:
    """Nobody else has it under the old name."""
    ctx = node.context()
    await node.watch(ctx).start()
    node.news()
    await asyncio.to_thread(node.model.rename, node.root / "renamed")
    await node.watch(ctx).start()
    renamed = [message for message in node.news() if isinstance(message, Model)]
    assert [(model.identity, model.name) for model in renamed] == [(node.identity, "renamed")]


async def test_models_that_come_and_go_are_told_of(node: Node) -> None:
    """Without a restart."""
    watch = node.watch(node.context())
    await watch.start()
    node.news()
    async with running(watch):
        await asyncio.to_thread(node.model.rename, node.root.parent / "away")
        (has,) = await told(node)
        assert isinstance(has, NodeModels)
        assert has.models == watch.models == []
        await asyncio.to_thread((node.root.parent / "away").rename, node.root / "decoder")
        (has,) = await told(node)
        assert isinstance(has, NodeModels)
        assert has.models == watch.models == [node.identity]


async def test_a_damaged_model_is_told_of_with_its_reason(node: Node) -> None:
    """Under a name that the catalog can hold, and no other model is touched."""
    bad = node.root / "b d"
    await asyncio.to_thread(shutil.copytree, SHIPPED, bad)
    await asyncio.to_thread(os.truncate, bad / SINGLE, 1000)
    watch = node.watch(node.context())
    await watch.start()
    async with running(watch):
        while True:
            (has,) = (message for message in await told(node) if isinstance(message, NodeModels))
            if has.quarantined:
                break
    assert has.models == [node.identity]
    (entry,) = has.quarantined
    assert (entry.name, entry.directory, entry.error.code) == ("b_d", str(bad), "model_damaged")
    assert "cannot be a model's name" in entry.error.message


async def test_a_model_that_is_damaged_when_it_is_loaded_leaves_at_once(node: Node) -> None:
    """Heartbeats have it no more, the catalog has the reason, and other workers of the node agree."""
    ctx = node.context()
    watch, other = node.watch(ctx), node.watch(node.context())
    await watch.start()
    await other.start()
    node.news()
    async with running(watch), running(other):
        watch.damaged(node.identity, "a hole")
        assert watch.models == []
        (has,) = await told(node)
        assert isinstance(has, NodeModels)
        assert [(entry.name, entry.error.message) for entry in has.quarantined] == [
            ("decoder", f"Model directory {node.model} cannot be used: a hole.")
        ]
        await until(lambda: not other.models)
        other.order(ModelOrder(what="verify", identity="", at=NOW))
        await until(lambda: watch.models == other.models == [node.identity])
    last = node.news()[-1]
    assert isinstance(last, NodeModels)
    assert last.models == [node.identity]


@pytest.mark.parametrize("which", ["one", "all"])
async def test_a_verification_is_told_of_also_where_all_is_well(node: Node, which: str) -> None:
    """Whoever asked waits for it; other orders are not for the watch."""
    watch = node.watch(node.context())
    await watch.start()
    (_, before) = node.news()
    identity = node.identity if which == "one" else ""
    async with running(watch):
        watch.order(ModelOrder(what="load", identity=node.identity, at=NOW))
        watch.order(ModelOrder(what="verify", identity=identity, at=NOW))
        (after,) = await told(node)
    assert isinstance(before, NodeModels)
    assert isinstance(after, NodeModels)
    assert after.verified_at > before.verified_at
    assert msgspec.structs.replace(after, verified_at=before.verified_at) == before


@pytest.mark.parametrize("which", ["one", "all"])
async def test_a_verification_finds_bits_that_changed(node: Node, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that no time stamp tells of."""
    watch = node.watch(node.context())
    await watch.start()
    node.news()
    stamps = {path.stat().st_ino: hashing.Stamp.of(path.stat()) for path in node.model.iterdir()}
    original = hashing.Stamp.of
    monkeypatch.setattr(hashing.Stamp, "of", staticmethod(lambda found: stamps.get(found.st_ino) or original(found)))
    flip(node.model / SINGLE)
    async with running(watch):
        watch.order(ModelOrder(what="verify", identity=node.identity if which == "one" else "", at=NOW))
        (has,) = await told(node)
    assert isinstance(has, NodeModels)
    assert (has.models, watch.models) == ([], [])
    assert "does not have the bytes any more" in has.quarantined[0].error.message


async def test_a_verification_of_a_model_that_is_elsewhere_changes_nothing(node: Node) -> None:
    """Orders go to all nodes."""
    watch = node.watch(node.context())
    await watch.start()
    (_, before) = node.news()
    async with running(watch):
        watch.order(ModelOrder(what="verify", identity="0" * 64, at=NOW))
        assert await told(node) == [before]


async def test_what_another_worker_told_is_not_told_again(node: Node) -> None:
    """The watch follows the catalog: a record that says what it would say itself is enough."""
    ctx = node.context()
    watch = node.watch(ctx)
    await watch.start()
    (_, before) = node.news()
    assert isinstance(before, NodeModels)
    gone = msgspec.structs.replace(before, at=NOW + 1, models=[], verified_at=before.verified_at)
    async with running(watch):
        await ctx.log.emit(CATALOG_PLACE, [Out(node_models_key("x"), encode(gone))])
        assert await told(node) == [gone]
        rows = watch._table.rows
        await until(lambda: rows[node_models_key("x").decode()] == gone)
        await asyncio.to_thread(shutil.rmtree, node.model)
        await until(lambda: not watch.models)
    assert node.news() == []
