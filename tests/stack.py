"""The whole system for end-to-end and fault tests: `llmos up` as a process, its services to be killed, paused and read.

    async with Stack.start(tmp_path, node={"cpu_devices": 1}) as stack:
        async with Client(stack.settings) as client: ...
        pid = await stack.kill("scheduler")
        await stack.back("scheduler", pid)

Names are those of the run files: `ingest`, `scheduler`, `worker-node-0.cpu0`, `kafka`, `redis`, and `stack` for `llmos up`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil

from llmos.cli.attach import STACK, attach_settings
from llmos.infra.embedded.child import Child, ChildSpec
from llmos.infra.embedded.directory import log_file, read_json, run_file
from llmos.infra.embedded.identity import is_alive, started_at
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.processes import readyz
from llmos.infra.settings import Settings, load
from llmos.infra.settings.environment import child_environment

READY_SECONDS = 180.0
STOP_SECONDS = 60.0
GONE_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_SERVERS = ("kafka", "redis")


class Stack:
    """A running system on a state directory of its own."""

    def __init__(self, configured: Settings) -> None:
        self._configured = configured
        self._up: Child | None = None
        self.settings = configured
        """With the addresses of the running stack."""

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, tmp_path: Path, **overrides: Any) -> AsyncIterator[Stack]:
        """Runs `llmos up` on `tmp_path/state`, until all is ready; stops it at the end and checks that nothing is left.

        `overrides` are settings: `kafka={"bootstrap": …}` uses another broker, `node={"cpu_devices": 1}` one worker.
        """
        stack = cls(load(state_directory=tmp_path / "state", **overrides))
        try:
            await stack.up()
            yield stack
        finally:
            await stack.down()
        left = await asyncio.to_thread(stack.processes)
        assert not left, f"still there after `llmos up` ended: {left}"

    @property
    def directory(self) -> Path:
        """Its state directory."""
        return self._configured.state_directory

    async def up(self) -> None:
        """Starts `llmos up` (again, after `kill_all` or `down`) and waits until everything is ready."""
        spec = ChildSpec(
            name="llmos-up",
            command=(sys.executable, "-m", "llmos", "up"),
            log=log_file(self.directory, "up"),
            environment=child_environment(self._configured),
            ready=self._is_ready,
            ready_seconds=READY_SECONDS,
        )
        self._up = await Child.start(spec)
        self.settings = await asyncio.to_thread(attach_settings, self._configured)

    async def down(self) -> int | None:
        """SIGTERM, and SIGKILL when that takes too long; gives the exit code, None where nothing was to be stopped."""
        return None if self._up is None else await self._up.stop(Deadline(STOP_SECONDS))

    async def pid(self, name: str) -> int:
        """The process id that `name` wrote down."""
        noted = await asyncio.to_thread(read_json, run_file(self.directory, name))
        if noted is None:
            raise LookupError(f"{name} has no run file; there are {await self.names()}")
        return int(noted["pid"])

    async def names(self) -> list[str]:
        """Who has written down that it runs."""
        return await asyncio.to_thread(lambda: sorted(file.stem for file in (self.directory / "run").glob("*.json")))

    async def workers(self) -> list[str]:
        """The names of the worker processes."""
        return [name for name in await self.names() if name.startswith("worker-")]

    async def kill(self, name: str) -> int:
        """SIGKILL; returns its process id when the process is gone."""
        pid = await self.pid(name)
        os.kill(pid, signal.SIGKILL)
        await self._until(lambda: started_at(pid) is None, GONE_SECONDS, f"process {pid} of {name} does not end")
        return pid

    async def pause(self, name: str) -> int:
        """SIGSTOP; returns its process id."""
        return await self._signal(name, signal.SIGSTOP)

    async def resume(self, name: str) -> int:
        """SIGCONT; returns its process id."""
        return await self._signal(name, signal.SIGCONT)

    async def terminate(self, name: str) -> int:
        """SIGTERM; returns its process id."""
        return await self._signal(name, signal.SIGTERM)

    async def back(self, name: str, before: int, timeout: float = 90.0) -> int:
        """Waits until `name` is ready again in another process than `before`; returns its process id."""
        deadline = Deadline(timeout)
        while deadline.left():
            noted = await asyncio.to_thread(read_json, run_file(self.directory, name))
            if noted and noted["pid"] != before and await self._serves(name, noted):
                return int(noted["pid"])
            await asyncio.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"{name} did not come back; its log ends with:\n{(await self.logs(name))[-4000:]}")

    async def kill_all(self) -> list[int]:
        """SIGKILL for the whole tree, broker and Redis included, as when the machine's power goes; `up` starts it again."""
        pids = await asyncio.to_thread(self.processes)
        first = [self._up.pid] if self._up is not None else []
        for pid in [*first, *(pid for pid in pids if pid not in first)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._up is not None:
            await self._up.wait()
            self._up = None
        await self._until(lambda: not self.processes(), GONE_SECONDS, "some processes do not end")
        return pids

    async def logs(self, name: str) -> str:
        """What `name` has logged so far."""
        file = log_file(self.directory, name)
        return await asyncio.to_thread(lambda: file.read_text(errors="replace") if file.exists() else "")

    def processes(self) -> list[int]:
        """Every process of this stack: whatever was started with its state directory in the environment. Blocks.

        Redis writes its title over its environment; it is known by its run file.
        """
        mark = str(self.directory)
        servers = [noted for name in _SERVERS if (noted := read_json(run_file(self.directory, name)))]
        found = [int(noted["pid"]) for noted in servers if is_alive(noted)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                ours = process.environ().get("LLMOS_STATE_DIRECTORY") == mark
                if ours and process.pid not in found and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    async def _is_ready(self, pid: int) -> bool:
        noted = await asyncio.to_thread(read_json, run_file(self.directory, STACK))
        return bool(noted and noted["pid"] == pid and noted["ready"])

    async def _serves(self, name: str, noted: dict[str, Any]) -> bool:
        if name == STACK:
            return bool(noted["ready"])
        try:
            async with asyncio.timeout(2.0):
                if name in _SERVERS:
                    (await asyncio.open_connection("127.0.0.1", noted["port"]))[1].close()
                    return True
                return await readyz(self._configured.telemetry.host, noted["port"])
        except (OSError, TimeoutError):
            return False

    async def _signal(self, name: str, number: signal.Signals) -> int:
        pid = await self.pid(name)
        os.kill(pid, number)
        return pid

    async def _until(self, done: Callable[[], bool], timeout: float, otherwise: str) -> None:
        deadline = Deadline(timeout)
        while not await asyncio.to_thread(done):
            if not deadline.left():
                raise TimeoutError(otherwise)
            await asyncio.sleep(_LOOK_SECONDS)
