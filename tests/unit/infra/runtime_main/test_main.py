"""A service as a process: what it is given, how it drains, what its exit code says, and that it ends in bounded time."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.infra.crypto.keyfile import changed, create_keyring, export_keyring, load_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.live import LiveKeyring
from llmos.infra.crypto.roles import for_service
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Ledger
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker, MemoryLog
from llmos.infra.log.port import Log
from llmos.infra.runtime import main as module
from llmos.infra.runtime.context import Context
from llmos.infra.runtime.main import Backends, run_service
from llmos.infra.settings import Settings, load
from llmos.schemas.errors import Ambiguous, CommitMissing, Fenced, LlmosError

PATIENCE = 10.0


class Bench:
    """Settings in a directory of its own, and backends in memory that note when they are closed."""

    def __init__(self, directory: Path, **telemetry: Any) -> None:
        self.events_file = directory / "events.log"
        self.settings = load(state_directory=directory / "state", telemetry={"log_file": self.events_file} | telemetry)
        self.closed: list[str] = []
        self.close_hangs = False
        self.backends = Backends(self._log, self._ledger)
        create_keyring(self.settings.keyring)

    def run(self, body: module.Body) -> int:
        """The exit code."""
        return run_service("ingest", "1", self.settings, body, self.backends)

    def events(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def names(self) -> list[str]:
        """The names of what was logged."""
        return [event["event"] for event in self.events()]

    async def _log(self, settings: Settings, client: str) -> Log:
        assert client == "ingest-1"
        bench = self

        class Noting(MemoryLog):
            async def close(self) -> None:
                bench.closed.append("log")
                if bench.close_hangs:
                    await asyncio.Event().wait()
                await super().close()

        return Noting(MemoryBroker(WallClock()), client)

    async def _ledger(self, settings: Settings) -> Ledger:
        bench = self

        class Noting(MemoryLedger):
            async def close(self) -> None:
                bench.closed.append("ledger")

        return Noting(WallClock())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Nothing runs yet."""
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def _handlers_come_back() -> Iterator[None]:
    """Whatever ran, the process's signal handlers are those from before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def returns(ctx: Context) -> None:
    """A service with nothing to do."""


def test_a_service_that_returns_is_clean(bench: Bench) -> None:
    """Code 0; it was given all it needs; everything is closed, the ledger before the log; two events say so."""
    given: list[Context] = []

    async def body(ctx: Context) -> None:
        given.append(ctx)
        files = await asyncio.to_thread(lambda: [p.name for p in (ctx.settings.state_directory / "run").iterdir()])
        assert files == ["ingest-1.json"]

    assert bench.run(body) == 0
    (ctx,) = given
    assert ctx.service == "ingest"
    assert ctx.settings is bench.settings
    assert isinstance(ctx.keyring, LiveKeyring)
    assert ctx.keyring.current.entries == for_service(load_keyring(bench.settings.keyring), "ingest").entries
    assert not ctx.stop.is_set()
    assert bench.closed == ["ledger", "log"]
    assert bench.names() == ["service_started", "service_stopped"]
    assert bench.events()[-1]["exit_code"] == 0
    assert {event["service"] for event in bench.events()} == {"ingest"}
    assert list((bench.settings.state_directory / "run").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(bench: Bench, number: signal.Signals) -> None:
    """`stop` is set, the service is not ready any more, and returns when it has finished: code 0."""

    async def body(ctx: Context) -> None:
        ctx.health.ready()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(ctx.stop.wait(), PATIENCE)
        assert not ctx.health.is_ready()  # type: ignore[attr-defined]

    assert bench.run(body) == 0
    assert bench.names() == ["service_started", "service_draining", "service_stopped"]


def test_a_drain_that_takes_too_long_is_cut_short(tmp_path: Path) -> None:
    """After `drain_seconds` the service is cancelled: code 70, and all is closed."""
    bench = Bench(tmp_path, drain_seconds=0.01)

    async def body(ctx: Context) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)

    assert bench.run(body) == 70
    assert bench.closed == ["ledger", "log"]
    assert [e["code"] for e in bench.events() if e["event"] == "service_failed"] == ["cut_short"]


def test_a_second_signal_ends_at_once(bench: Bench) -> None:
    """Without waiting for the drain."""

    async def body(ctx: Context) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(ctx.stop.wait(), PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)

    assert bench.run(body) == 70
    assert bench.closed == ["ledger", "log"]


def test_a_signal_before_the_start_ends_it(bench: Bench) -> None:
    """While it still connects there is nothing to drain: code 0, what was opened is closed."""

    async def never(settings: Settings) -> Ledger:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)
        raise AssertionError("it was not stopped")

    bench.backends = bench.backends._replace(ledger=never)
    assert bench.run(returns) == 0
    assert bench.closed == ["log"]
    assert bench.names() == ["service_stopped"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Ambiguous(operation="a write", problem="no reply"), "ambiguous"),
        (Fenced(what="the term"), "fenced"),
        (ZeroDivisionError("a bug"), "internal"),
    ],
)
def test_what_is_not_known_ends_the_process(bench: Bench, error: Exception, code: str) -> None:
    """Code 70 and one event that names the error, also when it comes in groups; all is closed."""

    async def body(ctx: Context) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(inner())

    async def inner() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait())
            raise error

    assert bench.run(body) == 70
    (event,) = [event for event in bench.events() if event["event"] == "service_failed"]
    assert event["code"] == code
    # Of an exception that is not ours, the text may quote a payload: its type and its place are told.
    assert (str(error) if isinstance(error, LlmosError) else "ZeroDivisionError at test_main.py") in event["error"]
    assert ("frames" in event) == (code == "internal")
    assert bench.closed == ["ledger", "log"]


def test_what_an_operator_must_mend_is_told(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 78 and the message on standard error."""

    async def body(ctx: Context) -> None:
        raise CommitMissing(group="ingest", topic="requests", partition=3)

    assert bench.run(body) == 78
    assert "llmos ingest: No committed offset of ingest for requests[3]" in capsys.readouterr().err
    assert "service_refused" in bench.names()


def test_a_missing_keyring_says_how_to_make_one(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is connected."""
    bench.settings.keyring.unlink()
    assert bench.run(returns) == 78
    assert "llmos keys init" in capsys.readouterr().err
    assert bench.closed == []


def test_an_unwritable_log_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no log yet, so standard error alone has it."""
    bench = Bench(tmp_path)
    bench.events_file.mkdir()
    assert bench.run(returns) == 78
    assert "telemetry.log_file" in capsys.readouterr().err


def test_an_empty_bootstrap_names_the_setting(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The real log, without an address."""
    assert run_service("ingest", "1", bench.settings, returns) == 78
    assert "kafka.bootstrap" in capsys.readouterr().err


def test_an_unreachable_redis_names_address_and_setting(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `redis.connect_seconds` of trying: code 78."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    redis = bench.settings.redis.model_copy(
        update={"url": f"unix://{bench.settings.state_directory}/none.sock", "connect_seconds": 0.1}
    )
    bench.settings = bench.settings.model_copy(update={"redis": redis})
    bench.backends = bench.backends._replace(ledger=module.REAL.ledger)
    assert bench.run(returns) == 78
    said = capsys.readouterr().err
    assert "redis.url" in said
    assert "none.sock" in said
    assert bench.closed == ["log"]


def test_a_close_that_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing is bounded; the exit code stays."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.01)
    bench.close_hangs = True
    assert bench.run(returns) == 0
    assert [e["what"] for e in bench.events() if e["event"] == "close_timed_out"] == ["log"]


def test_a_crash_writes_no_core_file(bench: Bench) -> None:
    """There would be keys and payloads in it."""
    limits: list[tuple[int, int]] = []

    async def body(ctx: Context) -> None:
        limits.append(resource.getrlimit(resource.RLIMIT_CORE))

    assert bench.run(body) == 0
    assert limits == [(0, 0)]


def test_keys_that_rotate_come_to_a_running_service(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody asking for them: the file is looked at all the time."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)

    seen = threading.Event()
    look = LiveKeyring.refresh

    def refresh(keys: LiveKeyring) -> bool:
        found = look(keys)
        if found:
            seen.set()
        return found

    monkeypatch.setattr(LiveKeyring, "refresh", refresh)

    async def body(ctx: Context) -> None:
        assert isinstance(ctx.keyring, LiveKeyring)
        before = ctx.keyring.current.active("system").id
        await asyncio.to_thread(changed, bench.settings.keyring, lambda keyring: keyring.rotated("system"))
        assert await asyncio.to_thread(seen.wait, PATIENCE)
        assert ctx.keyring.current.active("system").id != before

    assert bench.run(body) == 0
    assert "keyring_reloaded" in bench.names()


def test_a_service_without_its_keys_does_not_start(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of the keyring that was made for another service."""
    bench.settings.keyring.unlink()
    export_keyring(Keyring.memory(), "worker", bench.settings.keyring)
    assert bench.run(returns) == 78
    assert "lacks what ingest needs, keys for system" in capsys.readouterr().err


def test_nothing_stays_behind(bench: Bench) -> None:
    """No thread of ours outlives the service."""
    assert bench.run(returns) == 0
    assert "events" not in {thread.name for thread in threading.enumerate()}
