"""A child process: its own log file and session, a readiness probe with a time-out, a death seen at once, no orphans.

The child is spawned through `launcher`, which ties its life to the thread that spawned it: spawn from the thread that
runs the loop. Its own session keeps Ctrl-C away from it: only the parent is asked to stop, and stops its children in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmos.infra.runtime.deadline import Deadline
from llmos.schemas.errors import ChildFailed

Probe = Callable[[int], Awaitable[bool]]
"""Is the child with this process id ready? Returns within a second; connection errors mean “not yet”."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_PROBE_SECONDS = (0.02, 0.25)
"""Time between probes: the first, doubled up to the last."""
_PROBE_TIMEOUT = 2.0
_KILL_SECONDS = 10.0
"""How long the kernel may take to end a killed process before we say that it hangs."""
_TAIL_BYTES = 4096
_KEEP_LOG_BYTES = 32 * 1024 * 1024
_RESTORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores SIGPIPE, a shell's background job SIGINT; an ignored signal would stay ignored in the child."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to know that it is ready. `environment` None: ours. No `ready`: ready when it is spawned."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] | None = None
    ready: Probe | None = None
    ready_seconds: float = 60.0


class Child:
    """A running child; `start` makes it, or `spawn` and `until_ready`. Belongs to the loop that started it."""

    def __init__(self, spec: ChildSpec, pid: int, log_offset: int) -> None:
        self.name = spec.name
        self.pid = pid
        self._spec = spec
        self._log_offset = log_offset
        self._pidfd = os.pidfd_open(pid)
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    @classmethod
    async def spawn(cls, spec: ChildSpec) -> Child:
        """Spawns the child; whoever calls ends it with `stop` or `kill`."""
        log_offset = await asyncio.to_thread(_open_log, spec.log)
        return cls(spec, _spawn(spec), log_offset)

    @classmethod
    async def start(cls, spec: ChildSpec) -> Child:
        """Spawns the child and waits until it is ready; kills it when that does not come about.

        Raises:
            ChildFailed: it ended or was not ready within `ready_seconds`; carries the tail of its log.
        """
        child = await cls.spawn(spec)
        try:
            await child.until_ready()
        except BaseException:
            await child.kill()
            raise
        return child

    async def until_ready(self) -> None:
        """Returns when the child is ready.

        Raises:
            ChildFailed: it ended or was not ready within `ready_seconds`; it is not killed here.
        """
        deadline = Deadline(self._spec.ready_seconds)
        pause, longest = _PROBE_SECONDS
        while not await self._answers():
            if self._exit.done():
                await self._fail(f"it ended with {describe(self._exit.result())}")
            if not deadline.left():
                await self._fail(f"no answer within {self._spec.ready_seconds:.0f} s")
            await asyncio.wait({self._exit}, timeout=pause)
            pause = min(longest, pause * 2)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> int:
        """Returns its exit code when it ends, milliseconds later; waits as long as it lives."""
        return await asyncio.shield(self._exit)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it has ended. Never hits another process that got its id."""
        if not self._exit.done():
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return  # it ended just now; the loop hears of it next

    async def stop(self, deadline: Deadline, reserve: float = 0.0) -> int:
        """SIGTERM, and SIGKILL when the deadline (less `reserve` seconds) is over. Gives the exit code."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait({self._exit}, timeout=deadline.left(reserve))
        finally:
            if not self._exit.done():
                await self.kill()
        return self._exit.result()

    async def kill(self) -> None:
        """SIGKILL, and waits until the process is gone, also when cancelled meanwhile.

        Raises:
            ChildFailed: the kernel cannot end it (a hanging device or file system).
        """
        self.signal(signal.SIGKILL)
        gone = asyncio.ensure_future(asyncio.wait({self._exit}, timeout=_KILL_SECONDS))
        try:
            await asyncio.shield(gone)
        except asyncio.CancelledError:
            await gone
            raise
        if not self._exit.done():
            raise ChildFailed(child=self.name, problem=f"process {self.pid} does not end when killed", tail="")

    async def _answers(self) -> bool:
        if self._spec.ready is None:
            return not self._exit.done()
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                return await self._spec.ready(self.pid) and not self._exit.done()
        except (OSError, TimeoutError, EOFError):
            return False

    async def _fail(self, problem: str) -> None:
        tail = await asyncio.to_thread(read_tail, self._spec.log, self._log_offset)
        raise ChildFailed(child=self.name, problem=problem, tail=tail)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        if not self._exit.done() and status is not None:
            self._exit.set_result(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)


def _spawn(spec: ChildSpec) -> int:
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *spec.command]
    log_flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return os.posix_spawn(
        sys.executable,
        command,
        os.environ if spec.environment is None else spec.environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(spec.log), log_flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=_RESTORED,
    )


def _open_log(log: Path) -> int:
    """Makes room for a log, sets a large one aside, and gives its size: where this child's lines begin."""
    log.parent.mkdir(parents=True, exist_ok=True)
    size = log.stat().st_size if log.exists() else 0
    if size > _KEEP_LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
        size = 0
    return size


def read_tail(log: Path, offset: int = 0) -> str:
    """The last 4 KiB that were written to `log` after `offset`."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(offset, end - _TAIL_BYTES))
        return stream.read().decode(errors="replace").strip() or "(it wrote nothing)"


def describe(exit_code: int) -> str:
    """An exit code in words: `exit code 3`, `signal SIGKILL`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"
