"""The embedded stack: starts what the settings leave empty, keeps it running, fills in the addresses, stops it cleanly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from llmos.infra.embedded import broker, jars, redis_server
from llmos.infra.embedded.child import Child, ChildSpec
from llmos.infra.embedded.directory import StateDirectory, read_json, run_file, write_json
from llmos.infra.embedded.identity import is_alive, started_at
from llmos.infra.embedded.ports import LOOPBACK
from llmos.infra.runtime.beside import first_of
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.supervisor import Death, Restarts, Supervisor
from llmos.infra.settings import Settings
from llmos.schemas.errors import AlreadyRunning

_STOP_SECONDS = 20.0
_PREDECESSOR_SECONDS = 10.0


@contextlib.asynccontextmanager
async def embedded(
    settings: Settings,
    directory: StateDirectory | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[Settings]:
    """Gives a copy of the settings with `kafka.bootstrap` and `redis.url` filled in, and what they lead to running.

    Takes the state directory unless the caller holds it already and hands it over. `report` hears what takes time.

    Raises:
        AlreadyRunning: another llmos uses the state directory.
        MissingTool, ChecksumMismatch, ChildFailed: something could not be started.
    """
    if directory is None:
        directory = await asyncio.to_thread(StateDirectory.take, settings.state_directory)
        try:
            async with embedded(settings, directory, report) as filled:
                yield filled
        finally:
            directory.release()
        return
    stack = _Stack(settings, directory, report)
    try:
        async with Supervisor(stack.restarts, on_death=stack.died, on_spawn=stack.note) as supervisor:
            filled = await stack.start(supervisor)
            try:
                yield filled
            finally:
                await stack.stop(supervisor)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


class _Stack:
    """What is started, and where that is written down."""

    def __init__(self, settings: Settings, directory: StateDirectory, report: Callable[[str], None]) -> None:
        self._settings = settings
        self._directory = directory
        self._report = report
        self._ports: dict[str, int] = {}
        node = settings.node
        self.restarts = Restarts(first=node.restart_seconds, limit=node.restart_limit_seconds)

    async def start(self, supervisor: Supervisor) -> Settings:
        """Starts both side by side."""
        settings, directory = self._settings, self._directory
        starts = []
        if not settings.redis.url:
            await await_predecessor(directory, redis_server.NAME)
            redis, port = await asyncio.to_thread(redis_server.prepare, directory, settings.embedded)
            url = f"redis://{LOOPBACK}:{port}/0"
            settings = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": url})})
            starts.append(self._one(supervisor, redis, port))
        if not settings.kafka.bootstrap:
            await await_predecessor(directory, broker.NAME)
            self._report(f"Kafka: checking its jars (a first start fetches them, {jars.DOWNLOAD})")
            kafka, port = await asyncio.to_thread(broker.prepare, directory, settings)
            bootstrap = f"{LOOPBACK}:{port}"
            settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": bootstrap})})
            starts.append(self._one(supervisor, kafka, port))
        async with asyncio.TaskGroup() as tasks:
            for start in starts:
                tasks.create_task(start)
        return settings

    async def _one(self, supervisor: Supervisor, spec: ChildSpec, port: int) -> None:
        self._ports[spec.name] = port
        await supervisor.start(spec)
        self._report(f"{spec.name} listens on {LOOPBACK}:{port}")

    def died(self, death: Death) -> None:
        """A server ended by itself; it comes back at the same address."""
        self._report(f"{death.name} (process {death.pid}) ended with {death.reason}; it is started again")

    async def note(self, child: Child) -> None:
        """Writes down who runs, for the next start and for other terminals."""
        value = {"pid": child.pid, "port": self._ports[child.name], "started_at": started_at(child.pid)}
        await asyncio.to_thread(write_json, self._directory.run_file(child.name), value)

    async def stop(self, supervisor: Supervisor) -> None:
        """The broker first: it has the more to write."""
        names = list(supervisor.running())
        await supervisor.stop_all(Deadline(_STOP_SECONDS), first=(broker.NAME, redis_server.NAME))
        for name in names:
            await asyncio.to_thread(self._directory.run_file(name).unlink, missing_ok=True)


async def await_predecessor(directory: StateDirectory, name: str) -> None:
    """After a crash the children of the last owner are being killed by the kernel: waits until this one has let go.

    Raises:
        AlreadyRunning: it still runs after 10 s.
    """
    noted = await asyncio.to_thread(read_json, run_file(directory.path, name))
    if not noted:
        return
    deadline = Deadline(_PREDECESSOR_SECONDS)
    while await asyncio.to_thread(is_alive, noted):
        if not deadline.left():
            raise AlreadyRunning(pid=noted["pid"], directory=directory.path)
        await asyncio.sleep(0.05)
