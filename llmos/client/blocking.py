"""The blocking client: the same calls for programs without an event loop; one thread of its own runs the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from llmos.client.building import Input, Task
from llmos.client.client import Client
from llmos.client.events import Event
from llmos.client.outputs import Output
from llmos.client.queries import Command, What
from llmos.client.references import Reference, Submission
from llmos.schemas.errors import OperatorError
from llmos.schemas.results import Answer

T = TypeVar("T")

CLOSE_SECONDS = 30.0


class BlockingClient:
    """`Client` for threads: takes a client that was not entered yet, and may be used by several threads.

    >>> with BlockingClient(Client(bootstrap="127.0.0.1:9092")) as client:  # doctest: +SKIP
    ...     answer = client.result(client.submit("echo", {"text": "hello"}))
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client or Client()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llmos-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._client.close())
        finally:
            self._stop()

    def submit(self, kind: str, input: Input, **options: Any) -> Submission:
        """As `Client.submit`, with the same options."""
        return self._run(self._client.submit(kind, input, **options))

    def submit_many(self, tasks: Iterable[Task]) -> list[Submission]:
        """As `Client.submit_many`."""
        return self._run(self._client.submit_many(tasks))

    def result(self, job: Reference, timeout: float = 600.0, *, check: bool = False) -> Answer:
        """As `Client.result`."""
        return self._run(self._client.result(job, timeout, check=check))

    def peek(self, job: Reference) -> Answer | None:
        """As `Client.peek`."""
        return self._run(self._client.peek(job))

    def look(self, job: Reference) -> Answer | None:
        """As `Client.look`."""
        return self._run(self._client.look(job))

    def stream(self, job: Reference, timeout: float = 600.0) -> Iterator[Event]:
        """As `Client.stream`."""
        events = self._client.stream(job, timeout)
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            self._run(_close(events))

    def cancel(self, job: Reference) -> None:
        """As `Client.cancel`."""
        self._run(self._client.cancel(job))

    def query(
        self, what: What, *, job: Reference | None = None, timeout: float = 10.0, as_operator: bool | None = None
    ) -> dict[str, Any]:
        """As `Client.query`."""
        return self._run(self._client.query(what, job=job, timeout=timeout, as_operator=as_operator))

    def command(
        self, what: Command, model: str = "", *, alias: str = "", device: str = "", timeout: float = 10.0
    ) -> dict[str, Any]:
        """As `Client.command`."""
        return self._run(self._client.command(what, model, alias=alias, device=device, timeout=timeout))

    def drain(self, device: str, *, undo: bool = False, timeout: float = 10.0) -> dict[str, Any]:
        """As `Client.drain`."""
        return self._run(self._client.drain(device, undo=undo, timeout=timeout))

    def outputs(self, answer: Answer) -> list[Output]:
        """As `Client.outputs`."""
        return self._client.outputs(answer)

    def choices(self, answer: Answer, n: int) -> list[list[Output]]:
        """As `Client.choices`."""
        return self._client.choices(answer, n)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            call.close()
            raise OperatorError(problem="the client is not connected; use `with BlockingClient(…) as client`")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # the waiting thread was interrupted; the call must not go on unheard
            raise

    def _stop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(CLOSE_SECONDS)
            loop.close()


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()
