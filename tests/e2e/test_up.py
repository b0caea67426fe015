"""`llmos up` as a process: everything gets ready, what dies comes back, nothing is left behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from llmos.infra.settings.environment import child_environment
from tests.stack import Stack

pytestmark = pytest.mark.timeout(400)

SERVICES = {"ingest", "verify", "scheduler", "aggregator", "node", "worker-node-0.cpu0", "kafka", "redis", "stack"}


async def test_the_system_starts_recovers_and_stops(tmp_path: Path) -> None:
    """Everything is ready; a killed service, worker and broker come back as other processes; a second `llmos up` is
    refused; after SIGKILL of the whole tree the same directory starts again; at the end no process is left."""
    async with Stack.start(tmp_path, node={"cpu_devices": 1}, embedded={"kafka_heap": "256m"}) as stack:
        assert set(await stack.names()) == SERVICES
        for name in ("verify", "worker-node-0.cpu0", "kafka"):
            pid = await stack.kill(name)
            assert await stack.back(name, pid) != pid
        bootstrap = stack.settings.kafka.bootstrap

        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmos", "up", env=child_environment(stack.settings), stderr=asyncio.subprocess.PIPE
        )
        _, said = await second.communicate()
        assert second.returncode == 78
        assert b"llmos down" in said

        killed = await stack.kill_all()
        assert len(killed) >= len(SERVICES)
        await stack.up()
        assert stack.settings.kafka.bootstrap == bootstrap
        assert set(await stack.names()) == SERVICES
