"""A system in memory behind the command, which answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli.app import app
from llmos.cli.session import Caller, Session
from llmos.client import Client
from llmos.infra.crypto.channels import request_bound
from llmos.infra.crypto.envelope import open_envelope
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.schemas import ids, topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, Cancel, Drain, ModelCommand, Query, Reply
from llmos.schemas.dead import DeadLetter
from llmos.schemas.job import ErrorInfo, Item, Origin
from llmos.schemas.requests import REQUESTS, Request
from llmos.schemas.results import Answer, Stages
from llmos.schemas.tasks import EchoOutput
from tests.kit.sealing_worker import Worker, credentials_of

N = 8
JOB = "00" * 16


class System:
    """Echoes requests, answers queries, remembers what it was told."""

    def __init__(self) -> None:
        self.keys = Keyring.memory()
        self.credentials = credentials_of(self.keys)
        """Of tenant demo."""
        self.queries: list[Query] = []
        self.requests: list[tuple[str, Request]] = []
        self.cancels: list[Cancel] = []
        self.commands: list[ModelCommand | Drain] = []
        self.refusal: ErrorInfo | None = None
        self.refuse = False
        self.dead = False
        self.silent = False
        """Nobody gets a reply."""
        self.bodies: dict[str, Any] = {"job": {"job_id": JOB, "submissions": []}}
        """By query; of a list each query takes the next one, the last one stays."""
        self.replies: dict[str, Any] = {}
        """By command."""

    @asynccontextmanager
    async def connect(self, settings: Settings, caller: Caller) -> AsyncIterator[Client]:
        """As `Session.connect`: a client of this system, which lives as long."""
        log = MemoryBroker(WallClock()).connect("all")
        await ensure_topics(log, settings)
        tasks = [asyncio.create_task(self._answer(log)), asyncio.create_task(self._reply(log))]
        try:
            async with Client.over(log, **caller._asdict()) as client:
                yield client
        finally:
            # What was sent without waiting for it is still to be seen.
            await self._seen(log)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await log.close()

    async def _seen(self, log: Log) -> None:
        ends = await log.ends([Place(topics.CONTROL, 0)])
        reader = log.reader()
        reader.assign({Place(topics.CONTROL, 0): 0})
        while reader.position(Place(topics.CONTROL, 0)) < ends[Place(topics.CONTROL, 0)]:
            for records in (await reader.read(1.0)).values():
                messages = [CONTROL.decode(record.value) for record in records]
                self.cancels += [message for message in messages if isinstance(message, Cancel)]
        await reader.close()

    async def _answer(self, log: Log) -> None:
        reader = log.reader()
        reader.assign({Place(topic, p): 0 for topic in topics.REQUESTS.values() for p in range(N)})
        while True:
            for place, records in (await reader.read(1.0)).items():
                for record in records:
                    request = REQUESTS.decode(record.value)
                    self.requests.append((place.topic, request))
                    origin = Origin(*place, record.offset)
                    if self.dead:
                        error = ErrorInfo(code="unknown_tenant", message="no such tenant")
                        letter = DeadLetter(origin=origin, stage="ingest", error=error, at=1.0)
                        await log.emit(Place(topics.DEAD, 0), [Out(None, encode(letter))])
                        continue
                    answer = self._make(origin, request)
                    await log.emit(Place(topics.RESULTS, answer.partition), [Out(answer.job_id, encode(answer))])

    def _make(self, origin: Origin, request: Request) -> Answer:
        job_id = ids.job_id(request.tenant, request.idempotency_key or request.request_id)
        lane = next(lane for lane, topic in topics.REQUESTS.items() if topic == origin.topic)
        payload = request.payload
        if request.sealed:
            payload = open_envelope(self.keys, request_bound(request, lane), payload)
        text = msgspec.msgpack.decode(payload).get("text", "")
        outputs = [EchoOutput(text=t) for t in (text if isinstance(text, list) else [text])]
        items = [Item(output_index=i, output=msgspec.msgpack.encode(output)) for i, output in enumerate(outputs)]
        error = ErrorInfo(code="unknown_model", message="no such model") if self.refuse else None
        answer = Answer(
            job_id=job_id, tenant=request.tenant, request_id=request.request_id, origin=origin,
            partition=ids.partition_of(job_id, N), s=0, status="refused" if self.refuse else "completed",
            kind="echo", items=[] if self.refuse else items, error=error, epochs=[1],
            stages=Stages(submitted_at=100.0, admitted_at=100.5, answered_at=102.0),
        )  # fmt: skip
        reply_key = request.reply_key or (self.credentials.reply_keys[0].public if request.sealed else b"")
        if reply_key and not self.refuse:
            answer = msgspec.structs.replace(answer, items=Worker(reply_key).items(answer, *outputs))
        return answer

    async def _reply(self, log: Log) -> None:
        reader = log.reader()
        reader.assign({Place(topics.CONTROL, 0): 0})
        while True:
            for records in (await reader.read(1.0)).values():
                for record in records:
                    message = CONTROL.decode(record.value)
                    if isinstance(message, Query):
                        self.queries.append(message)
                    if isinstance(message, Query | ModelCommand | Drain) and message.reply_to and not self.silent:
                        reply = Reply(id=message.id, body=self._body(message), error=self._error(message))
                        await log.emit(Place(message.reply_to, 0), [Out(None, encode(reply))])

    def _error(self, message: Query | ModelCommand | Drain) -> ErrorInfo | None:
        return None if isinstance(message, Query) else self.refusal

    def _body(self, message: Query | ModelCommand | Drain) -> msgspec.Raw:
        if isinstance(message, Query):
            found = self.bodies[message.what]
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
        else:
            self.commands.append(message)
            found = self.replies.get(message.what if isinstance(message, ModelCommand) else "drain", {})
        return msgspec.Raw(msgspec.msgpack.encode(found))


@pytest.fixture
def system() -> System:
    """What answers."""
    return System()


@pytest.fixture
def llmos(system: System) -> Callable[..., Result]:
    """Runs a command line against the system."""

    def invoke(*words: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(app, list(words), input=stdin, obj=Session(connect=system.connect))

    return invoke
