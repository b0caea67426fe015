"""/livez, /readyz and /metrics over HTTP, for supervisors and Prometheus, and the file that tells where they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from http import HTTPStatus
from pathlib import Path

from llmos.infra.settings.tree import Settings
from llmos.infra.telemetry import metrics
from llmos.infra.telemetry.health import ProgressHealth
from llmos.schemas.errors import BadSetting

REQUEST_SECONDS = 5.0
"""A request must be whole, and its reply taken, within this time."""
REQUEST_BYTES = 8192
CONNECTIONS = 32
"""Requests served at once; more are turned away."""
TEXT = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Endpoint:
    """A small HTTP/1.1 server: one request a connection. Made by `open`."""

    def __init__(self, health: ProgressHealth) -> None:
        self._health = health
        self._requests: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._file: Path | None = None
        self.port = 0

    @staticmethod
    async def open(settings: Settings, service: str, instance: str | None, health: ProgressHealth) -> Endpoint:
        """Listens, and writes `run/<name>.json` in the state directory: {"pid", "port", "service"}.

        Raises:
            BadSetting: the address or port cannot be used, or the state directory cannot be written.
        """
        endpoint = Endpoint(health)
        address = settings.telemetry.host, settings.telemetry.port
        try:
            endpoint._server = await asyncio.start_server(endpoint._connected, *address, limit=REQUEST_BYTES)
        except OSError as problem:
            raise BadSetting(setting="telemetry.port", problem=f"{address[0]}:{address[1]}: {problem}") from None
        endpoint.port = endpoint._server.sockets[0].getsockname()[1]
        endpoint._file = run_file(settings.state_directory, service, instance)
        content = {"pid": os.getpid(), "port": endpoint.port, "service": service}
        try:
            await asyncio.to_thread(_write, endpoint._file, json.dumps(content))
        except OSError as problem:
            await endpoint.close()
            raise BadSetting(setting="state_directory", problem=f"it cannot be written: {problem}") from None
        return endpoint

    async def close(self) -> None:
        """Removes the file, ends open requests, stops listening."""
        if self._file is not None:
            await asyncio.to_thread(_remove, self._file)
        if self._server is not None:
            self._server.close()
            for request in list(self._requests):
                request.cancel()
            await asyncio.gather(*self._requests, return_exceptions=True)
            await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._requests) >= CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="endpoint-request")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that goes away, is slow or sends rubbish ends its own connection and nothing else.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(await self._answer(reader))
                    await writer.drain()
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"")
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"")
        status, body, content_type = self._page(path)
        return _response(status, body, content_type, with_body=method == b"GET")

    def _page(self, path: bytes) -> tuple[HTTPStatus, bytes, str]:
        if path == b"/livez":
            live, reason = self._health.live()
            return _verdict(live, reason)
        if path == b"/readyz":
            return _verdict(self._health.is_ready(), "it starts or drains")
        if path == b"/metrics":
            for loop, age in self._health.ages().items():
                metrics.LOOP_PROGRESS_AGE.labels(loop).set(age)
            metrics.READY.set(self._health.is_ready())
            return HTTPStatus.OK, metrics.render(), PROMETHEUS
        return HTTPStatus.NOT_FOUND, b"/livez /readyz /metrics\n", TEXT


def run_file(state_directory: Path, service: str, instance: str | None) -> Path:
    """Where a service's endpoint is written down."""
    name = service if instance is None else f"{service}-{instance}"
    return state_directory / "run" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.json"


def _verdict(good: bool, reason: str) -> tuple[HTTPStatus, bytes, str]:
    if good:
        return HTTPStatus.OK, b"ok\n", TEXT
    return HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode(), TEXT


def _response(status: HTTPStatus, body: bytes, content_type: str = TEXT, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _remove(path: Path) -> None:
    """Removes the file unless a successor has written its own by now."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(path.read_bytes())["pid"] == os.getpid():
            path.unlink()
