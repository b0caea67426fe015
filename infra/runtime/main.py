"""Runs one service as a process: connects what it needs, gives it the signal to drain, ends it in bounded time.

Exit codes: 0 when the service returned; 78 (EX_CONFIG) when an operator must act, with the message on standard error;
70 (EX_SOFTWARE) after anything else, be it an ambiguous write, a newer owner, a bug or a drain cut short: the
supervisor starts the process anew, and start-up is the recovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import structlog

from llmos.infra.crypto.live import LOOK_SECONDS, LiveKeyring
from llmos.infra.ledger.port import Ledger, LedgerAway
from llmos.infra.ledger.redis import RedisLedger, address
from llmos.infra.log.clock import WallClock
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.settings import Settings
from llmos.infra.settings.tree import Redis
from llmos.infra.telemetry.endpoint import Endpoint
from llmos.infra.telemetry.events import configure
from llmos.infra.telemetry.faults import fault_of
from llmos.infra.telemetry.health import ProgressHealth
from llmos.schemas.errors import LlmosError, MissingTool, OperatorError, Unreachable

log = structlog.get_logger()

CLEAN = 0
FAILED = 70
OPERATOR = 78

CLOSE_SECONDS = 5.0
"""How long each connection may take to close."""
RETRY_SECONDS = 0.1
RETRY_LIMIT_SECONDS = 2.0
"""First and longest back-off between attempts to reach Redis."""

Body = Callable[[Context], Awaitable[None]]


class Backends(NamedTuple):
    """How the log and the ledger are reached."""

    log: Callable[[Settings, str], Awaitable[Log]]
    """Given the settings and the client's name."""
    ledger: Callable[[Settings], Awaitable[Ledger]]


async def _kafka(settings: Settings, client: str) -> Log:
    return await KafkaLog.connect(settings.kafka, client=client)


async def _redis(settings: Settings) -> Ledger:
    return await connect_ledger(settings.redis)


REAL = Backends(_kafka, _redis)


def run_service(service: str, instance: str | None, settings: Settings, body: Body, backends: Backends = REAL) -> int:
    """Runs `body` until it returns, fails, or is told to stop (SIGTERM, SIGINT); gives the process's exit code.

    The first signal sets `Context.stop` and gives the service `telemetry.drain_seconds`; a second ends it at once.
    `backends`: for tests, on a log and a ledger in memory.
    """
    leave_no_core()
    try:
        events = configure(settings, service, instance)
    except OperatorError as problem:
        print(f"llmos {service}: {problem}", file=sys.stderr)
        return OPERATOR
    import uvloop  # of the extra `services`: whoever only asks does without

    try:
        keyring = LiveKeyring(settings.keyring, service)
        with _spared_collector(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Process(service, instance, settings, keyring, backends).run(body))
    except (Exception, asyncio.CancelledError) as problem:  # noqa: BLE001 - the last place where it can be told
        code = _explain(service, problem)
    else:
        code = CLEAN
    log.info("service_stopped", exit_code=code)
    events.close()
    return code


def check_extra() -> None:
    """Raises `MissingTool` where llmos was installed without what services need beside clients."""
    missing = [name for name in ("jinja2", "tokenizers", "uvloop") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingTool(tool=", ".join(missing), remedy="services need it: install llmos[services]")


class _Process:
    """One life of a service."""

    def __init__(
        self, service: str, instance: str | None, settings: Settings, keyring: LiveKeyring, backends: Backends
    ) -> None:
        self._service = service
        self._instance = instance
        self._settings = settings
        self._keyring = keyring
        self._backends = backends
        self._health = ProgressHealth(settings.telemetry.live_seconds)
        self._stop = asyncio.Event()
        self._started = False
        self._signals = 0

    async def run(self, body: Body) -> None:
        """Owns the service's task. Raises what the service raised; `CancelledError` when its drain was cut short."""
        work = asyncio.create_task(self._connected(body), name=self._service)
        with self._signalled(work):
            await asyncio.wait({work})
        if work.cancelled() and not self._started:
            return  # told to stop before it began: nothing was cut short
        await work

    async def _connected(self, body: Body) -> None:
        settings, client = self._settings, self._client
        async with contextlib.AsyncExitStack() as stack:
            endpoint = await Endpoint.open(settings, self._service, self._instance, self._health)
            stack.push_async_callback(_close, "endpoint", endpoint.close)
            connected = await self._backends.log(settings, client)
            stack.push_async_callback(_close, "log", connected.close)
            ledger = await self._backends.ledger(settings)
            stack.push_async_callback(_close, "ledger", ledger.close)
            context = Context(
                service=self._service,
                settings=settings,
                log=connected,
                ledger=ledger,
                keyring=self._keyring,
                clock=WallClock(),
                health=self._health,
                stop=self._stop,
            )
            self._started = True
            log.info("service_started", port=endpoint.port)
            await run_beside(_run(body, context), _follow(self._keyring))

    @property
    def _client(self) -> str:
        return self._service if self._instance is None else f"{self._service}-{self._instance}"

    @contextlib.contextmanager
    def _signalled(self, work: asyncio.Task[None]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number, work)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signal(self, number: signal.Signals, work: asyncio.Task[None]) -> None:
        self._signals += 1
        if self._signals == 1 and self._started:
            log.info("service_draining", signal=number.name, seconds=self._settings.telemetry.drain_seconds)
            self._health.drain()
            self._stop.set()
            asyncio.get_running_loop().call_later(self._settings.telemetry.drain_seconds, work.cancel)
        else:
            # Nothing to drain before the start; and who asks twice does not want to wait.
            work.cancel()


async def _run(body: Body, context: Context) -> None:
    await body(context)


async def _follow(keyring: LiveKeyring) -> None:
    """Looks at the keyring's file as long as the service runs; off the loop, since it reads a file."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(keyring.refresh)


def leave_no_core() -> None:
    """A crash of this process writes no core file: there would be keys and payloads in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def connect_ledger(redis: Redis) -> Ledger:
    """The ledger in Redis, tried with a growing back-off.

    Raises:
        BadSetting: `redis.url` is none.
        Unreachable: Redis did not answer within `redis.connect_seconds`. Once a service runs it goes on without.
    """
    problem = "no answer"
    pause = RETRY_SECONDS
    try:
        async with asyncio.timeout(redis.connect_seconds):
            while True:
                try:
                    ledger = await RedisLedger.connect(redis)
                    break
                except LedgerAway as away:
                    if pause == RETRY_SECONDS:
                        log.warning("waiting_for_redis", address=address(redis.url), problem=str(away))
                    problem = str(away)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_LIMIT_SECONDS)
    except TimeoutError:
        raise Unreachable(
            what="Redis",
            address=address(redis.url),
            seconds=redis.connect_seconds,
            setting="redis.url",
            problem=problem,
        ) from None
    try:
        await ledger.ensure_policy()
    except LedgerAway as away:
        log.warning("redis_policy_unknown", problem=str(away))
    return ledger


async def _close(what: str, close: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await close()
    except TimeoutError:
        log.warning("close_timed_out", what=what, seconds=CLOSE_SECONDS)


@contextlib.contextmanager
def _spared_collector() -> Iterator[None]:
    """Records make many short-lived objects and few cycles: what was imported is not looked at again while the service
    runs, and the rest is looked at less often."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _explain(service: str, problem: BaseException) -> int:
    """One event, for people a message, and the exit code."""
    leaves = list(_leaves(problem))
    operator = next((leaf for leaf in leaves if isinstance(leaf, OperatorError)), None)
    if operator is not None:
        log.error("service_refused", code=operator.code, error=str(operator))
        print(f"llmos {service}: {operator}", file=sys.stderr)
        return OPERATOR
    known = next((leaf for leaf in leaves if isinstance(leaf, LlmosError)), None)
    if known is not None:
        log.error("service_failed", code=known.code, error=str(known))
    elif isinstance(problem, asyncio.CancelledError):
        log.warning("service_failed", code="cut_short", error="it was stopped before its work was finished")
    else:
        fault = fault_of(leaves[0])
        log.error("service_failed", code=LlmosError.code, error=fault.problem, frames=fault.frames)
    return FAILED


def _leaves(problem: BaseException) -> Iterator[BaseException]:
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _leaves(inner)
    else:
        yield problem
