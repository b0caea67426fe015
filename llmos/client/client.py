"""The asynchronous client: submit, result, stream, cancel, query; it needs the log and nothing else of the system."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from llmos.client.building import Built, Input, Task, build
from llmos.client.errors import JobFailed, NoAnswer, NoReply, NoSuchJob, QueryRefused
from llmos.client.events import Event, Final
from llmos.client.matching import Board
from llmos.client.outputs import Output, choices, outputs
from llmos.client.queries import Queries
from llmos.client.references import JobRef, Reference, Submission, pointed, reference_of
from llmos.client.results import Results, requested, search
from llmos.client.sending import Sender
from llmos.client.streams import follow
from llmos.infra.crypto.macs import mac
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.settings import Settings, load
from llmos.infra.settings.tree import Kafka
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import Cancel, Drain, ModelCommand, Query, signed_control
from llmos.schemas.errors import BadSetting, OperatorError
from llmos.schemas.job import Events, Lane, Origin
from llmos.schemas.results import Answer

SEND_TOGETHER = 1000
"""Requests of `submit_many` under way at once."""

_SILENT = logging.NullHandler()

What = Literal["status", "job", "jobs", "explain", "devices", "models"]
Command = Literal["alias", "unalias", "pin", "unpin", "load", "unload", "verify"]


class Client:
    """A tenant's way into llmos.

    >>> async with Client(bootstrap="127.0.0.1:9092") as client:  # doctest: +SKIP
    ...     submission = await client.submit("echo", {"text": "hello"})
    ...     answer = await client.result(submission, timeout=60)
    ...     client.outputs(answer)
    [EchoOutput(text='hello')]

    Connects on entering. Without `settings` and `bootstrap` the settings are read as every command reads them
    (environment, `llmos.toml`). All time-outs are in seconds. Belongs to one event loop.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bootstrap: str = "",
        topic_prefix: str = "",
        tenant: str = "demo",
        secret: bytes | None = None,
    ) -> None:
        if settings is None and bootstrap:
            self._kafka = Kafka.model_validate({"bootstrap": bootstrap, "topic_prefix": topic_prefix})
        else:
            changes = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
            kafka = (settings or load()).kafka
            self._kafka = kafka.model_copy(update={name: value for name, value in changes.items() if value})
        self.tenant = tenant
        self._secret = secret or b""
        self._now: Callable[[], float] = time.time
        self._log: Log | None = None
        self._owns_log = True
        self._sender: Sender | None = None

    @classmethod
    def over(
        cls, log: Log, *, tenant: str = "demo", secret: bytes | None = None, now: Callable[[], float] = time.time
    ) -> Client:
        """A client over a log that is connected already and stays its owner's: in tests and simulations."""
        client = cls(bootstrap="connected", tenant=tenant, secret=secret)
        client._now = now
        client._log = log
        client._owns_log = False
        return client

    async def __aenter__(self) -> Self:
        if self._log is None:
            if not self._kafka.bootstrap:
                raise BadSetting(
                    setting="kafka.bootstrap", problem="it is empty; name the brokers, or start them with `llmos up`"
                )
            # An application that does not set up logging is not told of every try by the Kafka library; we raise.
            logging.getLogger("aiokafka").addHandler(_SILENT)
            self._log = await KafkaLog.connect(self._kafka, f"client-{self.tenant}")
        self._board = Board()
        self._results = Results(self._log, self._board)
        self._queries = Queries(self._log, self.tenant)
        self._sender = Sender(self._log, self._board, self._results, self.tenant)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the readers and, if this client made it, the connection; bounded in time."""
        await self._results.close()
        await self._queries.close()
        if self._owns_log and self._log is not None:
            log, self._log = self._log, None
            await log.close()

    async def submit(
        self,
        kind: str,
        input: Input,
        *,
        model: str = "",
        lane: Lane = "standard",
        priority: int = 4,
        timeout: float = 600.0,
        idempotency_key: str | None = None,
        events: Events | None = None,
        request_id: str | None = None,
    ) -> Submission:
        """Sends one request; returns when the log has it. Many at once travel in batches.

        `timeout` is the job's: not answered after so many seconds, it expires. `priority`: 0 the least urgent, 9 the
        most. The same `idempotency_key` (without one: the same `request_id`) names the same job.

        Raises:
            InvalidRequest, TooLarge: it would be refused.
            Ambiguous: nobody knows whether the log has it; send it again with the same `request_id`, by a new client.
        """
        task = Task(kind, input, model, lane, priority, timeout, idempotency_key, events, request_id)
        return await self._sends.send(self._build(task))

    async def submit_many(self, tasks: Iterable[Task]) -> list[Submission]:
        """Sends many requests in batches; the submissions are in their order.

        Raises what `submit` raises; then some may have been sent, so give them request ids to be able to send again.
        """
        submissions: list[Submission] = []
        waiting = iter(tasks)
        while some := list(itertools.islice(waiting, SEND_TOGETHER)):
            sent = await asyncio.gather(
                *map(self._sends.send, [self._build(task) for task in some]), return_exceptions=True
            )
            for outcome in sent:
                if isinstance(outcome, BaseException):
                    raise outcome
                submissions.append(outcome)
        return submissions

    async def result(self, job: Reference, timeout: float = 600.0, *, check: bool = False) -> Answer:
        """The answer to a submission, or to a job id from anywhere; a pointer is followed to the answer it means.

        Raises:
            NoAnswer: none came within `timeout` seconds; the job goes on.
            DeadLettered: this client submitted it, and it was unusable (an unknown tenant, a wrong secret).
            JobFailed: with `check`, the answer is not `completed`.
            BadReference: `job` names no job.
        """
        ref = reference_of(job)
        start = job.results_from if isinstance(job, Submission) else None
        try:
            async with asyncio.timeout(timeout):
                answer = await self._answer(ref, start)
                while (original := pointed(answer)) is not None:
                    answer = await self._answer(original, None)
        except TimeoutError:
            raise NoAnswer(job=ref, seconds=timeout) from None
        if check and answer.status != "completed":
            raise JobFailed(answer)
        return answer

    async def peek(self, job: Reference) -> Answer | None:
        """The answer if it is there already (a pointer is not followed); None if not. Raises `BadReference`."""
        ref = reference_of(job)
        if ref.origin is not None and (found := self._board.find(ref.origin)) is not None:
            return found
        start = job.results_from if isinstance(job, Submission) else None
        return await search(self._connected, await self._sends.partition(ref.job_id), ref, start, wait=False)

    async def look(self, job: Reference) -> Answer | None:
        """The answer as `peek` gives it; None: the job is on its way, or nobody can say (the scheduler is silent).

        Raises:
            NoSuchJob: neither scheduler nor `results` know it, nor does a request lie where the reference says.
            BadReference: `job` names no job.
        """
        ref = reference_of(job)
        if (answer := await self.peek(job)) is not None or await self._under_way(ref):
            return answer
        if (answer := await self.peek(job)) is None:  # it may have ended between the two questions
            raise NoSuchJob(job=ref)
        return answer

    async def stream(self, job: Reference, timeout: float = 600.0) -> AsyncGenerator[Event, None]:
        """Yields the job's tokens and states as they come, at last `Final` with the answer; also after its end.

        It can be asked again at any time, by any client: it shows again all that the log still keeps (1 hour). For
        tokens, submit with `events="tokens"`. Leaving early, close it: `async with aclosing(client.stream(job))`.

        Raises:
            NoAnswer: the end did not come within `timeout` seconds.
            DeadLettered: this client submitted it, and it was unusable.
            BadReference: `job` names no job.
        """
        ref = reference_of(job)
        if ref.origin is None and (known := await self.peek(job)) is not None:
            ref = pointed(known) or JobRef(ref.job_id, known.origin)
        start = job.stream_from if isinstance(job, Submission) else None
        results_from = job.results_from if isinstance(job, Submission) else None
        deadline = asyncio.get_running_loop().time() + timeout
        following: JobRef | None = ref
        while following is not None:
            ref, following = following, None
            answer = asyncio.create_task(self._answer_until(ref, results_from, deadline, timeout))
            events = follow(self._connected, await self._sends.partition(ref.job_id), ref, start, answer)
            try:
                async for event in events:
                    following = pointed(event.answer) if isinstance(event, Final) else None
                    if following is None:
                        yield event
            finally:
                await events.aclose()
                answer.cancel()
                await asyncio.wait([answer], timeout=5.0)
            start = results_from = None

    async def cancel(self, job: Reference) -> None:
        """Asks to end this tenant's submissions of the job that were made until now; returns when the log has it.

        The answer says what became of it. Raises `BadReference`.
        """
        cancel = Cancel(tenant=self.tenant, job_id=reference_of(job).job_id, at=self._now())
        if self._secret:
            cancel = msgspec.structs.replace(cancel, mac=mac(self._secret, signed_control(cancel)))
        await self._connected.emit(Place(topics.CONTROL, 0), [Out(cancel.job_id, encode(cancel))])

    async def query(self, what: What, *, job: Reference | None = None, timeout: float = 10.0) -> dict[str, Any]:
        """Asks the scheduler: `status` and `devices` (its report), `models`, `jobs` (this tenant's live ones), `job` and
        `explain` (of one that is named: its parts, what each waits for, and when it should begin).

        Raises:
            NoReply: no reply within `timeout` seconds.
            QueryRefused: the reply is an error.
        """
        job_id = reference_of(job).job_id if job is not None else None

        def make(id_: str, reply_to: str) -> Query:
            return Query(id=id_, what=what, reply_to=reply_to, tenant=self.tenant, job_id=job_id)

        return await self._queries.ask(make, self._secret, timeout)

    async def command(
        self, what: Command, model: str = "", *, alias: str = "", device: str = "", timeout: float = 10.0
    ) -> dict[str, Any]:
        """An operator's wish about a model, named by name, alias or identity; returns the scheduler's reply, not the effect.

        `alias` (a name that is to stand for the model) and `unalias` take `alias`. `pin`, `unpin`, `load` and `unload`
        take the name of a device; without one they mean every device whose node has the model. `verify` without a model
        means all. What came of a load or a verification is seen in `query("devices")` and `query("models")`.

        Raises:
            InvalidRequest: a field is out of its bounds.
            CommandRefused: the scheduler refused it; `code` of its `error` says why.
            NoReply: no reply within `timeout` seconds; it may be carried out all the same.
        """

        def make(id_: str, reply_to: str) -> ModelCommand:
            return ModelCommand(
                id=id_, what=what, model=model, alias=alias, device=device, at=self._now(), reply_to=reply_to
            )

        return await self._queries.command(make, timeout)

    async def drain(self, device: str, *, undo: bool = False, timeout: float = 10.0) -> dict[str, Any]:
        """A device finishes what it has and takes no more; with `undo` it takes work again.

        Returns the scheduler's reply; `query("devices")` shows when nothing is in flight there any more.

        Raises:
            InvalidRequest: that is no name of a device.
            CommandRefused: there is no such device.
            NoReply: no reply within `timeout` seconds; it may be carried out all the same.
        """

        def make(id_: str, reply_to: str) -> Drain:
            return Drain(device=device, at=self._now(), undo=undo, id=id_, reply_to=reply_to)

        return await self._queries.command(make, timeout)

    @staticmethod
    def outputs(answer: Answer) -> list[Output]:
        """The outputs of an answer, typed; see `llmos.client.outputs`."""
        return outputs(answer)

    @staticmethod
    def choices(answer: Answer, n: int) -> list[list[Output]]:
        """The outputs of each prompt, where `n` were asked of it; see `llmos.client.outputs`."""
        return choices(answer, n)

    @property
    def _connected(self) -> Log:
        if self._log is None:
            raise OperatorError(problem="the client is not connected; use `async with Client(…) as client`")
        return self._log

    @property
    def _sends(self) -> Sender:
        assert self._connected, "raises where there is no log"
        assert self._sender is not None, "entering makes it"
        return self._sender

    def _build(self, task: Task) -> Built:
        request_id = task.request_id or uuid.uuid4().hex
        return build(task, tenant=self.tenant, secret=self._secret, request_id=request_id, now=self._now())

    async def _answer_until(self, ref: JobRef, start: int | None, deadline: float, timeout: float) -> Answer:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._answer(ref, start)
        except TimeoutError:
            raise NoAnswer(job=ref, seconds=timeout) from None

    async def _answer(self, ref: JobRef, start: int | None) -> Answer:
        log, board, origin = self._connected, self._board, ref.origin
        if origin is not None and (board.owes(origin) or board.find(origin) or board.buried(origin)):
            return await self._results.wait(origin)
        answer = await search(log, await self._sends.partition(ref.job_id), ref, start)
        assert answer is not None, "a search that waits ends with an answer or by its caller's time-out"
        return answer

    async def _under_way(self, ref: JobRef) -> bool:
        try:
            body = await self.query("job", job=ref)
        except (NoReply, QueryRefused):
            return True
        if ref.origin is None:
            return bool(body["submissions"])
        if any(Origin(*live["origin"]) == ref.origin for live in body["submissions"]):
            return True
        return await requested(self._connected, ref.job_id, ref.origin)
