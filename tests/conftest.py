"""What every test gets: a clean environment, a loop that must not block, and, where asked for, a real broker and Redis."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import BlockBuster

from llmos.infra.embedded.stack import embedded
from llmos.infra.settings import Settings, load

# How long an example takes says nothing on a loaded machine.
hypothesis.settings.register_profile("llmos", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("llmos")

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0

# Where a blocking call of ours is right: importing a module, writing one log line, reading /proc, which is memory, and
# reading the settings, which happens once, before any work.
_MAY_BLOCK: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("<frozen importlib._bootstrap>", ("_find_and_load", "_load_unlocked")),
    ("<frozen importlib._bootstrap_external>", ("get_data", "path_stats", "_path_stat", "_fill_cache")),
    ("logging/__init__.py", ("emit", "handle", "findCaller")),
    ("structlog/_output.py", ("msg",)),
    ("structlog/_base.py", ("_proxy_to_logger",)),
    ("embedded/identity.py", ("started_at",)),
    ("settings/tree.py", ("load",)),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        default="embedded",
        metavar="embedded|HOST:PORT",
        help="the broker that integration tests use: one of their own, or one that runs already",
    )


def pytest_configure(config: pytest.Config) -> None:
    # So that `from tests.stack import Stack` works however pytest was called; its import mode leaves the path alone.
    root = str(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    config.addinivalue_line("markers", "may_block: this test may block its loop; say why beside it")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell, and no settings file lying about, reaches a test."""
    for name in list(os.environ):
        if name.startswith("LLMOS_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(
        "llmos.infra.settings.tree.config_file", lambda: Path(os.environ.get("LLMOS_CONFIG", os.devnull))
    )


@pytest.fixture(autouse=True)
def _loop_must_not_block(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call that our code makes on the event loop fails the test; what a test itself does may block.

    `@pytest.mark.may_block` is for a test that calls, on a loop, code that is meant for a thread.
    """
    if request.node.get_closest_marker("may_block"):
        yield
        return
    blockbuster = BlockBuster(scanned_modules="llmos")
    for function in blockbuster.functions.values():
        for filename, functions in _MAY_BLOCK:
            function.can_block_in(filename, functions)
    blockbuster.activate()
    try:
        yield
    finally:
        blockbuster.deactivate()


class _Servers:
    """The session's broker and Redis, kept by a loop of their own in a thread that lives as long as the session.

    The thread matters: the kernel ties the servers' lives to the thread that spawned them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready: Future[Settings] = Future()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="servers", daemon=True)

    def start(self) -> Settings:
        self._thread.start()
        return self._ready.result(timeout=_START_SECONDS)

    def stop(self) -> None:
        self._stop()
        self._thread.join(timeout=_STOP_SECONDS)
        assert not self._thread.is_alive(), "the session's servers did not stop"

    async def _run(self) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        try:
            async with embedded(self._settings) as filled:
                self._ready.set_result(filled)
                await stopped.wait()
        except BaseException as problem:
            if self._ready.done():
                raise
            self._ready.set_exception(problem)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """One real broker and one real Redis for all tests of the session; each test has names of its own on them."""
    directory = Path(tempfile.mkdtemp(prefix="llmos-tests-"))
    overrides: dict[str, Any] = {"state_directory": directory, "embedded": {"kafka_heap": "512m"}}
    if (address := request.config.getoption("--stack")) != "embedded":
        overrides["kafka"] = {"bootstrap": address}
    running = _Servers(load(**overrides))
    try:
        filled = running.start()
        try:
            yield filled
        finally:
            running.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def kafka_address(servers: Settings) -> str:
    """host:port of the session's broker."""
    return servers.kafka.bootstrap


@pytest.fixture(scope="session")
def redis_url(servers: Settings) -> str:
    """The session's Redis."""
    return servers.redis.url


@pytest.fixture
def settings(tmp_path: Path, kafka_address: str, redis_url: str) -> Settings:
    """Settings on the session's servers, under names that no other test uses."""
    name = f"t{uuid.uuid4().hex[:12]}"
    return load(
        state_directory=tmp_path / "state",
        kafka={"bootstrap": kafka_address, "topic_prefix": f"{name}."},
        redis={"url": redis_url, "prefix": f"{name}:"},
    )
