"""Children: ready or told why not, ended in time, never orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
import uvloop

from llmos.infra.embedded.child import Child, ChildSpec, describe
from llmos.infra.embedded.identity import started_at
from llmos.infra.runtime.deadline import Deadline
from llmos.schemas.errors import ChildFailed

SLEEPS = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def spec(tmp_path: Path, code: str, **more: object) -> ChildSpec:
    return ChildSpec(name="child", command=(sys.executable, "-c", code), log=tmp_path / "log", **more)  # type: ignore[arg-type]


def says(log: Path, word: str):  # type: ignore[no-untyped-def]
    """A probe: ready when the log holds `word`."""

    async def ask(pid: int) -> bool:
        return word in await asyncio.to_thread(log.read_text)

    return ask


async def gone(pid: int) -> None:
    """Returns when a process that need not be our child has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def never(pid: int) -> bool:
    return False


async def test_a_child_ends_when_asked(tmp_path: Path) -> None:
    """SIGTERM is enough for a child that obeys."""
    child = await Child.start(spec(tmp_path, SLEEPS))
    assert child.exit_code is None
    assert await child.stop(Deadline(30)) == -signal.SIGTERM
    assert child.exit_code == -signal.SIGTERM
    assert started_at(child.pid) is None


async def test_a_stubborn_child_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """When the time is over, SIGKILL follows."""
    child = await Child.start(spec(tmp_path, STUBBORN, ready=says(tmp_path / "log", "up")))
    assert await child.stop(Deadline(0.05)) == -signal.SIGKILL


async def test_an_exit_code_is_reported(tmp_path: Path) -> None:
    """`wait` gives the code with which the child ended, to everybody who waits."""
    child = await Child.start(spec(tmp_path, "import sys; sys.exit(3)", ready=None))
    assert await asyncio.gather(child.wait(), child.wait()) == [3, 3]


async def test_a_child_that_never_gets_ready_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the end of what the child wrote in this life, and the child is gone."""
    log = tmp_path / "log"
    log.write_text("from an earlier life\n")
    code = f"print('cannot find the file', flush=True); {SLEEPS}"
    monkeypatch.setattr("llmos.infra.embedded.child._PROBE_TIMEOUT", 60.0)

    async def not_ready_after_writing(pid: int) -> bool:
        while "cannot find" not in await asyncio.to_thread(log.read_text):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return False

    with pytest.raises(ChildFailed, match="no answer within") as caught:
        await Child.start(spec(tmp_path, code, ready=not_ready_after_writing, ready_seconds=0.001))
    assert "cannot find the file" in str(caught.value)
    assert "earlier life" not in str(caught.value)


async def test_a_child_that_ends_at_once_shows_why(tmp_path: Path) -> None:
    """An early end is told at once, with the exit code, not after the time-out."""
    with pytest.raises(ChildFailed, match=r"exit code 7[\s\S]*no such thing"):
        await Child.start(spec(tmp_path, "import sys; print('no such thing'); sys.exit(7)", ready=never))


async def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    """What cannot be run is named."""
    missing = ChildSpec("child", ("/no/such/program",), tmp_path / "log", ready=never)
    with pytest.raises(ChildFailed, match=r"/no/such/program cannot be run"):
        await Child.start(missing)


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling while the child is not ready yet ends the child."""
    probed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def note(pid: int) -> bool:
        if not probed.done():
            probed.set_result(pid)
        return False

    start = asyncio.ensure_future(Child.start(spec(tmp_path, SLEEPS, ready=note)))
    async with asyncio.timeout(30):
        pid = await probed
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert started_at(pid) is None


async def test_a_child_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C in our terminal does not reach the child, and signals ignored here work there."""
    code = "import os, signal; print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = await Child.start(spec(tmp_path, code))
        await child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (await asyncio.to_thread((tmp_path / "log").read_text)).split() == ["True", "True"]


PARENT = """
import asyncio, sys
from pathlib import Path
from llmos.infra.embedded.child import Child, ChildSpec

async def main():
    log = Path(sys.argv[1])
    spec = ChildSpec("c", (sys.executable, "-c", "import time; time.sleep(600)"), log)
    children = [await Child.start(spec) for _ in range(3)]
    print(*[child.pid for child in children], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_killing_the_parent_leaves_no_orphan(tmp_path: Path) -> None:
    """After SIGKILL of the parent, which can run no code any more, all its children are gone."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
        assert len(pids) == 3
        assert all(started_at(pid) is not None for pid in pids)
        parent.kill()
        await parent.wait()
        for pid in pids:
            await gone(pid)


async def test_a_child_of_a_dead_parent_does_not_start(tmp_path: Path) -> None:
    """A launcher whose parent died before the tie was made ends instead of running on."""
    launcher = Path(sys.modules["llmos.infra.embedded.child"].__file__ or "").with_name("launcher.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(launcher), "1", "true", stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"the parent is gone" in said
    assert os.getpid() != 1


def test_children_live_under_uvloop_too(tmp_path: Path) -> None:
    """The services' loop sees ends and exit codes as the standard one does."""

    async def main() -> tuple[int, int]:
        ended = await Child.start(spec(tmp_path, "import sys; sys.exit(3)"))
        killed = await Child.start(spec(tmp_path, SLEEPS))
        await killed.kill()
        return await ended.wait(), await killed.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == (3, -signal.SIGKILL)


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (-9, "signal SIGKILL"), (-200, "signal 200")])
def test_exit_codes_in_words(code: int, words: str) -> None:
    """Exit codes read as an operator would say them."""
    assert describe(code) == words
