"""The supervisor: when it restarts, what it tells, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from llmos.infra.embedded.child import Child, ChildSpec
from llmos.infra.embedded.identity import started_at
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.supervisor import Death, Restarts, Supervisor, back_off
from llmos.schemas.errors import ChildFailed

SLEEPS = "import time; time.sleep(600)"
QUICK = Restarts(first=0.01, limit=0.02)


@pytest.mark.parametrize(
    ("previous", "lived", "wait"),
    [
        (0.0, 0.0, 0.2),
        (0.2, 1.0, 0.4),
        (0.4, 1.0, 0.8),
        (3.2, 1.0, 5.0),
        (5.0, 1.0, 5.0),
        (5.0, 9.9, 5.0),
        (5.0, 10.0, 0.2),
        (0.2, 1000.0, 0.2),
    ],
)
def test_back_off_doubles_to_its_limit_and_starts_anew(previous: float, lived: float, wait: float) -> None:
    """The wait doubles from one short life to the next, up to the limit; a healthy life starts it anew."""
    assert back_off(previous, lived, Restarts(first=0.2, limit=5.0)) == pytest.approx(wait)


def test_a_first_wait_above_the_limit_is_cut() -> None:
    """The limit holds for the first wait too."""
    assert back_off(0.0, 0.0, Restarts(first=9.0, limit=5.0)) == 5.0


def test_a_deadline_runs_down_and_keeps_a_reserve() -> None:
    """What is left shrinks with the clock, never below 0, and less what is kept back for others."""
    now = 100.0
    deadline = Deadline(10.0, clock=lambda: now)
    assert deadline.left() == 10.0
    assert deadline.left(reserve=4.0) == 6.0
    now = 108.0
    assert (deadline.left(), deadline.left(reserve=4.0)) == (2.0, 0.0)
    now = 200.0
    assert deadline.left() == 0.0


def spec(tmp_path: Path, name: str, code: str = SLEEPS, **more: object) -> ChildSpec:
    return ChildSpec(name=name, command=(sys.executable, "-c", code), log=tmp_path / f"{name}.log", **more)  # type: ignore[arg-type]


async def test_a_dead_child_is_told_and_started_again(tmp_path: Path) -> None:
    """A death is told with name, process id and exit code, and a new process follows."""
    deaths: asyncio.Queue[Death] = asyncio.Queue()
    lives: asyncio.Queue[int] = asyncio.Queue()

    async def note(child: Child) -> None:
        lives.put_nowait(child.pid)

    async with asyncio.timeout(60), Supervisor(QUICK, on_death=deaths.put_nowait, on_spawn=note) as supervisor:
        await supervisor.start(spec(tmp_path, "a"))
        first = await lives.get()
        os.kill(first, signal.SIGKILL)
        assert await deaths.get() == Death("a", first, -signal.SIGKILL)
        second = await lives.get()
        assert second != first
        await supervisor.stop("a", Deadline(30))
    assert deaths.empty()
    assert started_at(second) is None


async def test_a_failed_first_start_is_raised_and_not_kept(tmp_path: Path) -> None:
    """`start` raises what went wrong; the name is free again."""
    async with asyncio.timeout(60), Supervisor(QUICK) as supervisor:
        with pytest.raises(ChildFailed, match="exit code 4"):
            await supervisor.start(spec(tmp_path, "a", "import sys; sys.exit(4)", ready=_later(None)))
        assert supervisor.running() == {}
        await supervisor.start(spec(tmp_path, "a"))
        await supervisor.stop_all(Deadline(30))


def _later(file: Path | None):  # type: ignore[no-untyped-def]
    """A probe that is true when `file` is there."""

    async def ask(pid: int) -> bool:
        return file is not None and await asyncio.to_thread(file.exists)

    return ask


async def test_a_kept_child_is_started_until_it_gets_ready(tmp_path: Path) -> None:
    """`keep` goes on after failed starts, and tells of each; `ready` returns when one succeeds."""
    flag = tmp_path / "flag"
    code = f"import os, sys, time\nif not os.path.exists({str(flag)!r}): sys.exit(5)\ntime.sleep(600)"
    deaths: list[int] = []

    def died(death: Death) -> None:
        deaths.append(death.exit_code)
        if len(deaths) == 2:
            flag.touch()

    async with asyncio.timeout(60), Supervisor(QUICK, on_death=died) as supervisor:
        supervisor.keep(spec(tmp_path, "a", code, ready=_later(flag)))
        await supervisor.ready("a")
        assert deaths == [5, 5]
        await supervisor.stop_all(Deadline(30))


async def test_children_are_stopped_in_order(tmp_path: Path) -> None:
    """Those named come first, one after the other; each is gone before the next is asked."""
    log = tmp_path / "ends"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    open({log!r}, 'a').write({name!r}); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); open({flag!r}, 'w').close(); time.sleep(600)"
    )
    async with asyncio.timeout(60), Supervisor(QUICK) as supervisor:
        for name in "abcd":
            flag = tmp_path / f"{name}.up"
            body = code.format(log=str(log), name=name, flag=str(flag))
            await supervisor.start(spec(tmp_path, name, body, ready=_later(flag)))
        await supervisor.stop_all(Deadline(30), first=("c", "a", "d"))
    assert (await asyncio.to_thread(log.read_text)) == "cadb"


async def test_a_stop_during_the_back_off_ends_the_keeping(tmp_path: Path) -> None:
    """A child that is dead when it should stop is not started again."""
    died = asyncio.Event()
    slow = Restarts(first=3600.0, limit=3600.0)
    async with asyncio.timeout(60), Supervisor(slow, on_death=lambda death: died.set()) as supervisor:
        await supervisor.start(spec(tmp_path, "a", SLEEPS))
        os.kill(supervisor.running()["a"], signal.SIGKILL)
        await died.wait()
        await supervisor.stop("a", Deadline(30))
        assert supervisor.running() == {}


async def test_an_error_inside_leaves_no_child(tmp_path: Path) -> None:
    """Leaving the block by an exception kills what runs."""
    pids: list[int] = []

    async def fail() -> None:
        async with asyncio.timeout(60), Supervisor(QUICK) as supervisor:
            await supervisor.start(spec(tmp_path, "a"))
            pids.append(supervisor.running()["a"])
            raise LookupError("inside")

    with pytest.raises(ExceptionGroup) as caught:
        await fail()
    assert caught.group_contains(LookupError)
    assert started_at(pids[0]) is None
