"""A service as a child process: its command, its settings through the environment, its log, and when it counts as ready."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llmos.infra.embedded.child import ChildSpec, Probe
from llmos.infra.embedded.directory import log_file, read_json
from llmos.infra.settings import Settings
from llmos.infra.settings.environment import child_environment
from llmos.infra.telemetry.endpoint import run_file


def service_spec(
    settings: Settings, service: str, instance: str | None = None, ready_seconds: float | None = None
) -> ChildSpec:
    """`llmos run <service>` with these settings. `instance` tells workers apart; it must be what the service derives.

    `ready_seconds`: how long it may take to be ready; embedded.ready_seconds unless given.
    """
    name = service if instance is None else f"{service}-{instance}"
    return ChildSpec(
        name=name,
        command=(sys.executable, "-m", "llmos", "run", service),
        log=log_file(settings.state_directory, name),
        # Events go to standard error, which is the log file here; each child has an endpoint of its own.
        environment=child_environment(_own_endpoint(settings)),
        ready=endpoint_ready(run_file(settings.state_directory, service, instance), settings.telemetry.host),
        ready_seconds=ready_seconds or settings.embedded.ready_seconds,
    )


def endpoint_ready(file: Path, host: str) -> Probe:
    """Ready when the run file is this child's own and its /readyz says so."""

    async def ask(pid: int) -> bool:
        noted = await asyncio.to_thread(read_json, file)
        if not noted or noted.get("pid") != pid or not isinstance(noted.get("port"), int):
            return False
        return await readyz(host, noted["port"])

    return ask


async def readyz(host: str, port: int) -> bool:
    """Asks a service's endpoint. Connection errors are the caller's."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: llmos\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return (await reader.readline()).split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()


def _own_endpoint(settings: Settings) -> Settings:
    telemetry = settings.telemetry.model_copy(update={"port": 0, "log_file": None})
    return settings.model_copy(update={"telemetry": telemetry})
