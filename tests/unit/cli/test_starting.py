"""A stack that starts is waited for; its processes are shown; an outage is one sentence."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import attach
from llmos.cli.attach import attached_when_ready, note_of, running_stack
from llmos.cli.outages import hear
from llmos.cli.services import Running, local_stack
from llmos.infra.embedded.directory import StateDirectory
from llmos.infra.settings import Settings, load
from llmos.schemas.errors import OperatorError

PATIENCE = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    """Held by this process, as by a stack that has just begun to start."""
    directory = StateDirectory.take(tmp_path / "state")
    yield directory
    directory.release()


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def note(directory: StateDirectory, *, ready: bool) -> None:
    settings = load(state_directory=directory.path, kafka={"bootstrap": "127.0.0.1:19092"})
    write(directory.run_file("stack"), note_of(settings, os.getpid(), ready=ready))


def bare(path: Path) -> Settings:
    return load(state_directory=path)


async def test_a_stack_that_starts_is_waited_for(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has written anything down, and while it says that it is not ready; that is said once."""
    said: list[str] = []
    looks: dict[bool | None, threading.Event] = {None: threading.Event(), False: threading.Event()}

    def look(path: Path) -> Any:
        noted = running_stack(path)
        ready = noted and noted["ready"]
        if ready in looks:
            looks[ready].set()
        return noted

    monkeypatch.setattr(attach, "running_stack", look)
    waiting = asyncio.create_task(attach.attached_when_ready(bare(directory.path), said.append))
    for ready, then in ((None, False), (False, True)):
        assert await asyncio.to_thread(looks[ready].wait, PATIENCE)
        note(directory, ready=then)
    async with asyncio.timeout(PATIENCE):
        attached = await waiting
    assert attached.kafka.bootstrap == "127.0.0.1:19092"
    (text,) = said
    assert "is starting" in text
    assert str(directory.path) in text


async def test_the_waiting_has_an_end(directory: StateDirectory) -> None:
    """A stack that does not become ready is told with its directory; a named broker is never waited for."""
    with pytest.raises(OperatorError, match=f"{directory.path} is not ready"):
        await attached_when_ready(bare(directory.path), lambda text: None, timeout=0.01)
    named = load(state_directory=directory.path, kafka={"bootstrap": "other:9092"})
    assert (await attached_when_ready(named, pytest.fail)).kafka.bootstrap == "other:9092"


async def test_where_no_stack_runs_the_whole_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative directory says little to who stands in another one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError, match=f"no stack runs in {tmp_path}/.llmos"):
        await attached_when_ready(bare(Path(".llmos")), pytest.fail)


async def test_the_processes_of_the_stack_are_looked_at(directory: StateDirectory) -> None:
    """Alive by their process, ready by what answers at their port; half-written files are no processes."""
    assert await local_stack(bare(directory.path)) is None
    note(directory, ready=True)

    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(ready, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    write(directory.run_file("ingest"), {"pid": os.getpid(), "port": port})
    write(directory.run_file("verify"), {"pid": os.getpid(), "port": 1})
    write(directory.run_file("worker"), {"pid": gone.pid, "port": port})
    write(directory.run_file(".half"), {"pid": os.getpid(), "port": port})
    try:
        local = await local_stack(bare(directory.path))
    finally:
        server.close()
        await server.wait_closed()
    assert local is not None
    assert local.kafka == "127.0.0.1:19092"
    assert local.services == [
        Running("ingest", os.getpid(), True, True),
        Running("llmos up", os.getpid(), True, True),
        Running("verify", os.getpid(), True, False),
        Running("worker", gone.pid, False, False),
    ]


@pytest.fixture
def library() -> Iterator[logging.Logger]:
    """The Kafka library's logger, as it was before."""
    logger = logging.getLogger("aiokafka")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield logger
    logger.handlers, logger.level, logger.propagate = before


def test_an_outage_is_one_sentence(library: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    """However often the library tries; what its other parts say is left out, and nothing reaches the root's handlers."""
    said: list[str] = []
    hear("first:1", said.append)
    hear("127.0.0.1:9092", said.append)
    logging.getLogger("aiokafka.conn").error("connection closed")
    library.warning("slow")
    assert said == []
    for _ in range(3):
        library.error('Unable connect to "%s:%s": %s', "127.0.0.1", 9092, "refused")
    assert said == ["Kafka at 127.0.0.1:9092 is away; waiting"]
    assert caplog.records == []
