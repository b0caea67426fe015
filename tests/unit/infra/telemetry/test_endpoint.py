"""The endpoint over a real socket: pages, refusals, slow and rude clients, the file that tells where it is."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from llmos.infra.settings import Settings, load
from llmos.infra.telemetry import endpoint as module
from llmos.infra.telemetry.endpoint import Endpoint, run_file
from llmos.infra.telemetry.health import ProgressHealth
from llmos.schemas.errors import BadSetting

PATIENCE = 10.0


class Bench(NamedTuple):
    """An endpoint and the health behind it."""

    endpoint: Endpoint
    health: ProgressHealth
    time: list[float]
    settings: Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A state directory of its own."""
    return load(state_directory=tmp_path)


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """An endpoint that listens."""
    time = [0.0]
    health = ProgressHealth(30.0, clock=lambda: time[0])
    endpoint = await Endpoint.open(settings, "worker", "node-0.cpu:0/1", health)
    yield Bench(endpoint, health, time, settings)
    await endpoint.close()


async def send(port: int, request: bytes) -> bytes:
    """The whole reply to these bytes."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    reply = await send(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    return int(head.split()[1]), body.decode()


async def test_livez_says_which_loop_stands(bench: Bench) -> None:
    """200 while all loops take turns, else 503 and the reason."""
    bench.health.progress("ingest")
    assert await get(bench.endpoint.port, "/livez") == (200, "ok\n")
    bench.time[0] += 31
    status, body = await get(bench.endpoint.port, "/livez?verbose")
    assert status == 503
    assert "'ingest'" in body


async def test_readyz_follows_the_service(bench: Bench) -> None:
    """503 before it is ready and while it drains."""
    assert (await get(bench.endpoint.port, "/readyz"))[0] == 503
    bench.health.ready()
    assert (await get(bench.endpoint.port, "/readyz"))[0] == 200
    bench.health.drain()
    assert (await get(bench.endpoint.port, "/readyz"))[0] == 503


async def test_metrics_show_the_age_of_each_loop(bench: Bench) -> None:
    """The text format of Prometheus; ages are those of now."""
    bench.health.progress("test-loop")
    bench.time[0] += 7
    status, body = await get(bench.endpoint.port, "/metrics")
    assert status == 200
    assert 'llmos_loop_progress_age_seconds{loop="test-loop"} 7.0' in body


async def test_other_paths_and_methods_are_refused(bench: Bench) -> None:
    """404, 405; HEAD gives the head alone."""
    assert (await get(bench.endpoint.port, "/"))[0] == 404
    assert (await get(bench.endpoint.port, "/livez", "POST"))[0] == 405
    assert await get(bench.endpoint.port, "/livez", "HEAD") == (200, "")


async def test_a_head_that_is_too_long_is_refused(bench: Bench) -> None:
    """431, without reading on."""
    reply = await send(bench.endpoint.port, b"GET / HTTP/1.1\r\nX: " + b"x" * module.REQUEST_BYTES + b"\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_says_nothing_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection lasts no longer than its time; others are served meanwhile."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    assert await send(bench.endpoint.port, b"GET /livez") == b""
    assert (await get(bench.endpoint.port, "/livez"))[0] == 200


async def test_more_connections_than_allowed_are_turned_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process keeps its file descriptors."""
    monkeypatch.setattr(module, "CONNECTIONS", 0)
    assert await send(bench.endpoint.port, b"") == b""


async def test_the_run_file_tells_where_and_goes_with_the_service(bench: Bench) -> None:
    """pid, port and service under a name safe for files; gone after a clean stop."""
    path = run_file(bench.settings.state_directory, "worker", "node-0.cpu:0/1")
    assert path.name == "worker-node-0.cpu-0-1.json"
    content = json.loads(await asyncio.to_thread(path.read_bytes))
    assert content == {"pid": os.getpid(), "port": bench.endpoint.port, "service": "worker"}
    await bench.endpoint.close()
    assert not await asyncio.to_thread(path.exists)


async def test_a_successors_run_file_is_left_alone(bench: Bench) -> None:
    """A process that ends late does not remove the file of the one that followed."""
    path = run_file(bench.settings.state_directory, "worker", "node-0.cpu:0/1")
    await asyncio.to_thread(path.write_text, '{"pid": 1, "port": 5, "service": "worker"}')
    await bench.endpoint.close()
    assert await asyncio.to_thread(path.exists)


async def test_a_port_in_use_names_the_setting(bench: Bench) -> None:
    """The operator is told which setting to change."""
    telemetry = bench.settings.telemetry.model_copy(update={"port": bench.endpoint.port})
    settings = bench.settings.model_copy(update={"telemetry": telemetry})
    with pytest.raises(BadSetting, match=r"telemetry\.port"):
        await Endpoint.open(settings, "ingest", None, bench.health)
