"""The asynchronous client: submit, result, stream, cancel, query; it needs the log, and credentials to seal."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from llmos.client.building import Built, Input, ReplyTo, Task, build
from llmos.client.errors import JobFailed, NoAnswer, NoReply, NoSuchJob, QueryRefused
from llmos.client.events import Event, Final
from llmos.client.identity import Given, Identity
from llmos.client.lookup import Lookup, Sight, no_pointer
from llmos.client.matching import Board
from llmos.client.outputs import Output, choices, outputs
from llmos.client.queries import OPERATOR, OPERATORS_SEE_MORE, Command, Queries, What
from llmos.client.references import JobRef, Reference, Submission, pointed, reference_of
from llmos.client.results import Results
from llmos.client.sending import Sender
from llmos.client.streams import follow
from llmos.infra.crypto.credentials import Credentials
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.settings import Settings, load
from llmos.infra.settings.tree import Kafka
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import Cancel, Drain, ModelCommand
from llmos.schemas.errors import BadSetting, OperatorError, OperatorOnly
from llmos.schemas.job import Events, Lane
from llmos.schemas.results import Answer

SEND_TOGETHER = 1000
"""Requests of `submit_many` under way at once."""

_SILENT = logging.NullHandler()


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
        tenant: str = "",
        secret: bytes | None = None,
        credentials: Credentials | Path | None = None,
        operator: Keyring | None = None,
    ) -> None:
        """`credentials` name the tenant; with them requests are signed and sealed, and answers opened. Where none are given,
        those that the state directory of the settings has for `tenant` ("demo" by default) are used. Without any, requests
        go in the clear; `secret` signs them. `operator`: a keyring with the operators' key, for what tenants may not.
        Files are read on entering, which raises `BadSetting` where they cannot be, or are another tenant's.
        """
        state_directory: Path | None = None
        if settings is None and bootstrap:
            self._kafka = Kafka.model_validate({"bootstrap": bootstrap, "topic_prefix": topic_prefix})
        else:
            settings = settings or load()
            changes = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
            self._kafka = settings.kafka.model_copy(update={name: value for name, value in changes.items() if value})
            state_directory = settings.state_directory
        self._given = Given(tenant, secret, credentials, operator, state_directory)
        self._who: Identity | None = None
        self._now: Callable[[], float] = time.time
        self._log: Log | None = None
        self._owns_log = True
        self._sender: Sender | None = None

    @classmethod
    def over(
        cls,
        log: Log,
        *,
        tenant: str = "",
        secret: bytes | None = None,
        credentials: Credentials | Path | None = None,
        operator: Keyring | None = None,
        now: Callable[[], float] = time.time,
    ) -> Client:
        """A client over a log that is connected already and stays its owner's: in tests and simulations."""
        client = cls(bootstrap="connected", tenant=tenant, secret=secret, credentials=credentials, operator=operator)
        client._now = now
        client._log = log
        client._owns_log = False
        return client

    @property
    def tenant(self) -> str:
        """Who asks."""
        return self._who.tenant if self._who is not None else self._given.name

    @property
    def seals(self) -> bool:
        """Whether requests are sealed, unless they are to go in the clear; known once entered."""
        return self._identity.sealing is not None

    @property
    def refused_events(self) -> int:
        """Token events that streams of this client did not show, because they could not be opened."""
        return self._identity.opening.refused_events

    async def __aenter__(self) -> Self:
        self._who = who = await self._given.identity()
        if self._log is None:
            if not self._kafka.bootstrap:
                raise BadSetting(
                    setting="kafka.bootstrap", problem="it is empty; name the brokers, or start them with `llmos up`"
                )
            # An application that does not set up logging is not told of every try by the Kafka library; we raise.
            logging.getLogger("aiokafka").addHandler(_SILENT)
            self._log = await KafkaLog.connect(self._kafka, f"client-{who.tenant}")
        self._board = board = Board()
        self._results = Results(self._log, board, who.tenant)
        self._queries = Queries(self._log, who.tenant, who.control_mac)
        self._operators = Queries(self._log, OPERATOR, who.control_mac)
        self._sender = Sender(self._log, board, self._results, who.tenant)
        self._lookup = Lookup(self._log, board, self._results, self._sender, who)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the readers and, if this client made it, the connection; bounded in time."""
        await self._results.close()
        await self._queries.close()
        await self._operators.close()
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
        timeout: float | None = None,
        idempotency_key: str | None = None,
        events: Events | None = None,
        request_id: str | None = None,
        clear: bool = False,
        reply: ReplyTo = "tenant",
        hybrid: bool = False,
    ) -> Submission:
        """Sends one request, sealed where the client has credentials; returns when the log has it. Many at once travel in
        batches.

        `timeout` is the job's, by default the tenant's: not answered after so many seconds, it expires. `priority`: 0 the least urgent, 9 the
        most. The same `idempotency_key` (without one: the same `request_id`) names the same job. `clear` sends in the
        clear on purpose. `reply="ephemeral"`: answer and events are sealed to a key of this request that only this client
        has and keeps in memory; with `hybrid` one that combines X25519 with ML-KEM-768.

        Raises:
            InvalidRequest, TooLarge: it would be refused.
            BadSetting: the credentials lack what sealing needs.
            Ambiguous: nobody knows whether the log has it; send it again with the same `request_id`, by a new client.
        """
        task = Task(
            kind, input, model, lane, priority, timeout, idempotency_key, events, request_id, clear, reply, hybrid
        )
        return await self._sends.send(self._build(task))

    async def submit_many(self, tasks: Iterable[Task]) -> list[Submission]:
        """Sends many requests in batches; the submissions are in their order.

        Raises what `submit` raises; then some may have been sent, so give them request ids to be able to send again.
        """
        submissions: list[Submission] = []
        waiting = iter(tasks)
        while some := list(itertools.islice(waiting, SEND_TOGETHER)):
            submissions += await self._sends.send_all([self._build(task) for task in some])
        return submissions

    async def result(self, job: Reference, timeout: float = 600.0, *, check: bool = False) -> Answer:
        """The answer to a submission, or to a job id from anywhere; a pointer is followed to the answer it means.

        Raises:
            NoAnswer: none came within `timeout` seconds; the job goes on.
            CannotOpen: it is sealed to a key that this client does not have, or was damaged or forged.
            DeadLettered: this client submitted it, and it was unusable (an unknown tenant, a wrong secret).
            JobFailed: with `check`, the answer is not `completed`.
            BadReference: `job` names no job.
        """
        sight = Sight(job)
        finds = self._finds
        try:
            async with asyncio.timeout(timeout):
                answer = await finds.wait(sight)
                if (original := pointed(answer)) is not None:
                    answer = no_pointer(await finds.wait(Sight(original)))
        except TimeoutError:
            raise NoAnswer(job=sight.ref, seconds=timeout) from None
        if check and answer.status != "completed":
            raise JobFailed(answer)
        return answer

    async def peek(self, job: Reference) -> Answer | None:
        """The answer if it is there already (a pointer is not followed); None if not. Raises as `look`."""
        return await self._finds.peek(Sight(job))

    async def look(self, job: Reference) -> Answer | None:
        """The answer as `peek` gives it; None: the job is on its way, or nobody can say (the scheduler is silent).

        Raises:
            NoSuchJob: neither scheduler nor `results` know it, nor does a request lie where the reference says; or it is
                another tenant's.
            CannotOpen: as `result`.
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

        Any client of the tenant can ask at any time: it shows again all that the log still keeps (1 hour). For tokens, submit with `events="tokens"`. A token event that cannot be opened is not shown, as all that
        follows it in the same attempt: the final tells it. Leaving early, close it: `async with aclosing(client.stream(job))`.

        Raises:
            NoAnswer: the end did not come within `timeout` seconds.
            CannotOpen: as `result`.
            DeadLettered: this client submitted it, and it was unusable.
            BadReference: `job` names no job.
        """
        sight = Sight(job)
        if sight.ref.origin is None and (known := await self.peek(job)) is not None:
            sight = Sight(pointed(known) or JobRef(sight.ref.job_id, known.origin))
        deadline = asyncio.get_running_loop().time() + timeout
        following: JobRef | None = sight.ref
        first = True
        while following is not None:
            following = None
            answer = asyncio.create_task(self._finds.until(sight, deadline, timeout))
            partition = await self._sends.partition(sight.ref.job_id)
            events = follow(self._connected, partition, sight, self._identity.opening, answer)
            try:
                async for event in events:
                    if isinstance(event, Final):
                        following = pointed(event.answer if first else no_pointer(event.answer))
                    if following is None:
                        yield event
            finally:
                await events.aclose()
                answer.cancel()
                await asyncio.wait([answer], timeout=5.0)
            if following is not None:
                sight, first = Sight(following), False

    async def cancel(self, job: Reference) -> None:
        """Asks to end this tenant's submissions of the job that were made until now; returns when the log has it.

        The answer says what became of it. Raises `BadReference`.
        """
        cancel = Cancel(tenant=self.tenant, job_id=reference_of(job).job_id, at=self._now())
        cancel = msgspec.structs.replace(cancel, mac=self._identity.control_mac(cancel))
        await self._connected.emit(Place(topics.CONTROL, 0), [Out(cancel.job_id, encode(cancel))])

    async def query(
        self, what: What, *, job: Reference | None = None, timeout: float = 10.0, as_operator: bool | None = None
    ) -> dict[str, Any]:
        """Asks the scheduler: `status` and `devices` (its report), `models`, `jobs` (this tenant's live ones), `job` and
        `explain` (of one that is named: its parts, what each waits for, and when it should begin).

        As an operator the client sees what is every tenant's; by default it asks so for `status`, `devices` and `models`
        where it has the operators' key.

        Raises:
            NoReply: no reply within `timeout` seconds.
            QueryRefused: the reply is an error.
            OperatorOnly: with `as_operator`, and without that key.
        """
        job_id = reference_of(job).job_id if job is not None else None
        has_key = self._given.operator is not None
        if as_operator and not has_key:
            raise OperatorOnly(what=f"query {what!r} about all tenants")
        wide = has_key and what in OPERATORS_SEE_MORE if as_operator is None else as_operator
        assert self._connected, "raises where there is no log"
        if wide:
            return await self._operators.ask(what, None, job_id, timeout)
        return await self._queries.ask(what, self.tenant, job_id, timeout)

    async def command(
        self, what: Command, model: str = "", *, alias: str = "", device: str = "", timeout: float = 10.0
    ) -> dict[str, Any]:
        """An operator's wish about a model, named by name, alias or identity; returns the scheduler's reply, not the effect.

        `alias` (a name that is to stand for the model) and `unalias` take `alias`. `pin`, `unpin`, `load` and `unload`
        take the name of a device; without one they mean every device whose node has the model. `verify` without a model
        means all. What came of a load or a verification is seen in `query("devices")` and `query("models")`.

        Raises:
            InvalidRequest: a field is out of its bounds.
            CommandRefused: the scheduler refused it; `code` of its `error` says why: `operator_only` where this client does
                not have the operators' key of the system.
            NoReply: no reply within `timeout` seconds; it may be carried out all the same.
        """

        def make(id_: str, reply_to: str) -> ModelCommand:
            return ModelCommand(
                id=id_, what=what, model=model, alias=alias, device=device, at=self._now(), reply_to=reply_to
            )

        return await self._operators.command(make, timeout)

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

        return await self._operators.command(make, timeout)

    @staticmethod
    def outputs(answer: Answer) -> list[Output]:
        """The outputs of an answer, typed; see `llmos.client.outputs`."""
        return outputs(answer)

    @staticmethod
    def choices(answer: Answer, n: int) -> list[list[Output]]:
        """The outputs of each prompt, where `n` were asked of it; see `llmos.client.outputs`."""
        return choices(answer, n)

    @property
    def _identity(self) -> Identity:
        assert self._connected, "raises where there is no log"
        assert self._who is not None, "entering makes it"
        return self._who

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

    @property
    def _finds(self) -> Lookup:
        assert self._connected, "raises where there is no log"
        return self._lookup

    def _build(self, task: Task) -> Built:
        request_id = task.request_id or uuid.uuid4().hex
        who = self._identity
        built = build(
            task, tenant=who.tenant, secret=who.secret, request_id=request_id, now=self._now(), sealing=who.sealing
        )
        if built.reply_key is not None:
            who.opening.keys.add(built.reply_key, built.request.reply_key)
        return built

    async def _under_way(self, ref: JobRef) -> bool:
        try:
            body = await self.query("job", job=ref)
        except (NoReply, QueryRefused):
            return True
        return await self._lookup.is_live(ref, body)
