"""Marked texts run through a whole system; then everything that it left anywhere is searched for them, and for key material.

First a tenant sends a mark in the clear, and the search finds it: it would find the others too.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from llmos.client import CannotOpen, Client, Final, StateChanged, Submission
from llmos.infra.crypto.credentials import Credentials, load_credentials
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.embedded.directory import read_json, run_file
from tests.kit.asker import Asker
from tests.kit.canary import Found, Needle, needles_of, search, search_files
from tests.kit.counter import Origin, Reader
from tests.kit.live import SECONDS, clean_environment
from tests.kit.load import EMBED, GENERATE
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SEALING, CLEAR = "demo", "globex"
"""The tenant that seals, and the one that does not."""
SERVERS = ("kafka", "redis")
KEY_PIECE_BYTES = 32
MANY = 300
"""Prompts of a request that is at work for a long time."""
SOME = 40
"""Prompts of one that is at work for seconds, and is waited for."""
_NO_CORE = re.compile(rb"^Max core file size\s+0\s+0\s", re.MULTILINE)


@dataclass
class Ran:
    """What was asked of the system, and what must not be found."""

    stack: Stack
    marks: dict[str, str | bytes] = field(default_factory=dict)
    jobs: list[bytes] = field(default_factory=list)
    ephemeral: set[bytes] = field(default_factory=set)
    """Jobs whose answers are sealed to a key that only the client that asked ever had."""
    dead: list[Origin] = field(default_factory=list)
    refused: list[Origin] = field(default_factory=list)

    def mark(self, what: str) -> str:
        """A fresh mark."""
        text = f"canary-{uuid.uuid4().hex}"
        self.marks[what] = text
        return text

    def take(self, submission: Submission) -> Submission:
        """Remembers whose it is."""
        self.jobs.append(submission.job_id)
        return submission


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with one worker, whose services log all that they ever log."""
    with clean_environment():
        async with Stack.start(
            tmp_path_factory.mktemp("canary"),
            node={"cpu_devices": 1},
            scheduler={"deaths": 1},
            telemetry={"log_level": "debug"},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ran(stack: Stack) -> Ran:
    """Everything that a tenant may do, sealed."""
    ran = Ran(stack)
    credentials = await credentials_of(stack, SEALING)
    async with Client(stack.settings, credentials=credentials) as client:
        await outputs(ran, client)
        await a_stream(ran, client)
        await failures(ran, client)
        await questions(ran, client)
    await crafted(ran, Asker(credentials))
    async with Client(stack.settings, credentials=credentials) as another:  # reads what the first one had asked for
        for job in ran.jobs:
            with pytest.raises(CannotOpen) if job in ran.ephemeral else contextlib.nullcontext():
                await another.peek(job)
    return ran


async def outputs(ran: Ran, client: Client) -> None:
    """Prompts of every kind, and what came of them."""
    for kind, model, text in (
        ("echo", "", [ran.mark("text of echo"), ran.mark("second text of echo")]),
        ("embed", EMBED, ran.mark("text of embed")),
    ):
        submission = ran.take(await client.submit(kind, {"text": text}, model=model))
        answer = await client.result(submission, SECONDS, check=True)
        ran.marks |= {f"output {item.output_index} of {kind}": item.output[8:] for item in answer.items}
    key = uuid.uuid4().hex
    for reply in ("tenant", "ephemeral"):
        asked = {"text": ran.mark(f"text of a repeated key, {reply}")}
        for _ in range(2):
            submission = ran.take(
                await client.submit("echo", asked, idempotency_key=f"{key}-{reply}", reply=reply, lane="batch")
            )
            assert (await client.result(submission, SECONDS)).status == "completed"
            if reply == "ephemeral":
                ran.ephemeral.add(submission.job_id)


async def a_stream(ran: Ran, client: Client) -> None:
    """A prompt with token events, whose text is the answer's."""
    prompt = {"prompt": ran.mark("prompt"), "max_tokens": 48, "stop": [ran.mark("stop string")], "logprobs": 2}
    submission = ran.take(await client.submit("generate", prompt, model=GENERATE, lane="interactive", events="tokens"))
    async with aclosing(client.stream(submission, SECONDS)) as events:
        (final,) = [event async for event in events if isinstance(event, Final)]
    (output,) = client.outputs(final.answer)
    assert final.replaced == {}
    ran.marks["text that was generated"] = output.text.strip()[:48]


async def failures(ran: Ran, client: Client) -> None:
    """Refusals by verify, a time that was over, items that fail because their worker dies."""
    too_long = {"prompt": ran.mark("prompt that is too long") + " word" * 2000}
    chat = {"messages": [{"role": "user", "content": ran.mark("conversation without a template")}]}
    for asked, code in ((too_long, "too_long"), (chat, "no_chat_template")):
        submission = ran.take(await client.submit("generate", asked, model=GENERATE))
        answer = await client.result(submission, SECONDS)
        assert answer.error is not None
        assert answer.error.code == code
    late = {"prompt": [ran.mark("prompt that expires")] * MANY, "max_tokens": 150}
    submission = ran.take(await client.submit("generate", late, model=GENERATE, timeout=1.0))
    assert (await client.result(submission, SECONDS)).status == "expired"
    fatal = {"prompt": [ran.mark("prompt whose worker dies")] * SOME, "max_tokens": 150}
    submission = ran.take(await client.submit("generate", fatal, model=GENERATE, events="tokens"))
    await runs(client, submission)
    (worker,) = await ran.stack.workers()
    before = await ran.stack.kill(worker)
    answer = await client.result(submission, SECONDS)
    assert any(item.error for item in answer.items)
    await ran.stack.back(worker, before)


async def questions(ran: Ran, client: Client) -> None:
    """Queries about a job that runs, and its cancel."""
    asked = {"prompt": [ran.mark("prompt that is cancelled")] * MANY, "max_tokens": 150}
    submission = ran.take(await client.submit("generate", asked, model=GENERATE, events="tokens"))
    await runs(client, submission)
    for what in ("jobs", "status", "models"):
        await client.query(what, timeout=SECONDS)
    for what in ("job", "explain"):
        await client.query(what, job=submission, timeout=SECONDS)
    await client.cancel(submission)
    assert (await client.result(submission, SECONDS)).status == "cancelled"


async def runs(client: Client, submission: Submission) -> None:
    """Waits until a job is at work."""
    async with aclosing(client.stream(submission, SECONDS)) as events:
        async for event in events:
            if isinstance(event, StateChanged) and event.state == "running":
                return


async def crafted(ran: Ran, asker: Asker) -> None:
    """What no client of ours sends: payloads that are no input, a wrong code, and rubbish in the clear."""
    bad = ran.mark("value of a field that is wrong")
    wrong: tuple[tuple[str, Any], ...] = (
        ("echo", {"text": {"inside": bad}}),
        ("generate", {"messages": [{"role": bad, "content": bad}]}),
        ("generate", {"prompt": bad, "max_tokens": bad}),
        ("echo", msgpack.packb({"text": bad})[:-3]),
        ("embed", bad.encode()),
    )
    forged = asker.request("echo", {"text": ran.mark("forged text")}, secret=b"f" * 32)
    ran.marks["rubbish"] = f"canary-{uuid.uuid4().hex}"
    rubbish = b"\xc1" + str(ran.marks["rubbish"]).encode()
    producer = AIOKafkaProducer(bootstrap_servers=ran.stack.settings.kafka.bootstrap)
    await producer.start()
    try:
        for kind, payload in wrong:
            model = "" if kind == "echo" else EMBED if kind == "embed" else GENERATE
            sent = await producer.send_and_wait("requests", asker.request(kind, payload, model=model))
            ran.refused.append(("requests", sent.partition, sent.offset))
        for value in (forged, rubbish):
            sent = await producer.send_and_wait("requests", value)
            ran.dead.append(("requests", sent.partition, sent.offset))
    finally:
        await producer.stop()
    results, dead = (Reader(ran.stack.settings.kafka.bootstrap, topic) for topic in ("results", "dead"))
    await results.until(ran.refused, SECONDS)
    await dead.until(ran.dead, SECONDS)
    assert {answer["status"] for place in ran.refused for answer in results.of(place)} == {"refused"}


async def test_the_search_finds_what_was_sent_in_the_clear(stack: Stack) -> None:
    """In the broker's files, in its records, and in Redis, where it is put for once."""
    text = f"canary-{uuid.uuid4().hex}"
    async with Client(stack.settings, tenant=CLEAR) as client:
        submission = await client.submit("echo", {"text": text}, clear=True)
        assert (await client.result(submission, SECONDS)).status == "completed"
    needles = needles_of({"clear": text})
    places = {Path(one.where).parent.name for one in await files(stack, needles)}
    assert {"requests", "admitted", "results"} <= {place.rpartition("-")[0] for place in places}
    assert {one.where.partition(":")[0] for one in await records(stack, needles)} >= {"requests", "results"}
    async with Redis.from_url(stack.settings.redis.url) as redis:
        await redis.hset("canary", "field", text)
        try:
            assert {one.where for one in await in_redis(stack, needles)} >= {"the value of canary", "the dump"}
        finally:
            await redis.delete("canary")


async def test_no_mark_is_in_any_file(ran: Ran) -> None:
    """Segments and indexes of the broker, Redis' files, logs, run files: all that is under the state directory. Rubbish that
    was sent in the clear lies where its sender put it, and nowhere else: dead letters are sealed."""
    found = await files(ran.stack, needles_of(ran.marks))
    own = [one for one in found if one.what == "rubbish" and Path(one.where).parent.name.startswith("requests-")]
    assert own, "the search did not look at the topic of the requests"
    assert not [one for one in found if one not in own]


async def test_no_mark_is_in_any_record(ran: Ran) -> None:
    """Keys, values and headers on all topics, however the broker keeps them; and token events say nothing in the clear."""
    found = await records(ran.stack, needles_of(ran.marks))
    assert {one.what for one in found if not one.where.startswith("requests:")} == set()
    stream = Reader(ran.stack.settings.kafka.bootstrap, "stream")
    await stream.advance()
    tokens = [m for m in stream.messages if m["type"] == "tokens/1" and m["job_id"] in ran.jobs]
    assert tokens
    assert all(event["sealed"] and "text" not in event and "finish" not in event for event in tokens)


async def test_no_mark_is_in_redis(ran: Ran) -> None:
    """Neither among its keys and values nor in a dump of them."""
    assert not await in_redis(ran.stack, needles_of(ran.marks))


async def test_no_mark_is_in_metrics(ran: Ran) -> None:
    """Nor in what any service says over HTTP."""
    for name, page in (await pages(ran.stack)).items():
        assert b"llmos_" in page, name
        assert not search(name, page, needles_of(ran.marks))


async def test_keys_are_in_their_own_files_only(ran: Ran) -> None:
    """No secret or private key of keyring and credentials is in another file, a record, Redis, a metric, an environment or a
    command line; and their own files open for their owner only."""
    stack = ran.stack
    own = await asyncio.to_thread(key_files, stack)
    assert {file.stat().st_mode & 0o077 for file in own} == {0}
    needles = needles_of(await asyncio.to_thread(secrets_of, stack))
    assert await asyncio.to_thread(search_files, stack.directory, needles), "not even their own files have them"
    assert not await files(stack, needles)
    assert not await records(stack, needles)
    assert not await in_redis(stack, needles)
    for name, page in (await pages(stack)).items():
        assert not search(name, page, needles)
    for pid in await asyncio.to_thread(stack.processes):
        for name in ("environ", "cmdline"):
            assert not search(f"{name} of {pid}", await asyncio.to_thread(of_process, pid, name), needles)


async def test_no_process_leaves_a_core(ran: Ran) -> None:
    """A crash writes no memory to a disk: of services and workers, of `llmos up`, which makes the keys, and of the servers."""
    names = await ran.stack.names()
    assert {"ingest", "verify", "scheduler", "aggregator", "node", "stack", *SERVERS} <= set(names)
    assert await ran.stack.workers()
    limits = {name: await asyncio.to_thread(of_process, await ran.stack.pid(name), "limits") for name in names}
    assert [name for name, text in limits.items() if not _NO_CORE.search(text)] == []


async def credentials_of(stack: Stack, tenant: str) -> Credentials:
    """Those that the first start wrote."""
    return await asyncio.to_thread(load_credentials, stack.directory / "tenants" / f"{tenant}.json")


def key_files(stack: Stack) -> list[Path]:
    """The files that are made for keys. Blocks."""
    return [stack.settings.keyring, *sorted((stack.directory / "tenants").glob("*.json"))]


def secrets_of(stack: Stack) -> Mapping[str, bytes]:
    """Every secret and private key, in pieces of 32 bytes. Blocks."""
    keyring, *files = key_files(stack)
    whole = {f"{entry.purpose} {entry.id}": entry.key for entry in load_keyring(keyring).entries if entry.key}
    for file in files:
        found = load_credentials(file)
        whole[f"secret of {found.tenant}"] = found.secret
        whole |= {f"reply key {i} of {found.tenant}": key.private for i, key in enumerate(found.reply_keys)}
    assert len(whole) >= 10
    return {
        f"{what}[{at}:]": key[at : at + KEY_PIECE_BYTES]
        for what, key in whole.items()
        for at in range(0, len(key), KEY_PIECE_BYTES)
    }


async def files(stack: Stack, needles: list[Needle]) -> list[Found]:
    """In all files but those that are made for keys."""
    leave_out = await asyncio.to_thread(key_files, stack)
    return await asyncio.to_thread(search_files, stack.directory, needles, leave_out)


async def records(stack: Stack, needles: list[Needle]) -> list[Found]:
    """In all records of all topics."""
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.settings.kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        topics = sorted(await consumer.topics())
        consumer.subscribe(topics)
        await consumer.getmany(timeout_ms=0)
        ends = await consumer.end_offsets(sorted(consumer.assignment()))
        assert {place.topic for place in ends} == set(topics)
        found = []
        while [place for place, end in ends.items() if await consumer.position(place) < end]:
            for place, batch in (await consumer.getmany(timeout_ms=200)).items():
                for record in batch:
                    where = f"{place.topic}:{place.partition}:{record.offset}"
                    pieces = [record.key, record.value, *(text for _, text in record.headers)]
                    found += [one for piece in pieces if piece for one in search(where, piece, needles)]
        return found
    finally:
        await consumer.stop()


async def in_redis(stack: Stack, needles: list[Needle]) -> list[Found]:
    """In all keys and values, and in a dump."""
    async with Redis.from_url(stack.settings.redis.url) as redis:
        found = []
        async for key in redis.scan_iter(count=1000):
            name = key.decode(errors="replace")
            found += search(f"the key {name}", key, needles)
            found += search(f"the value of {name}", await value_of(redis, key), needles)
        await redis.config_set("rdbcompression", "no")
        await redis.save()
        directory = Path((await redis.config_get("dir"))["dir"])
        dump = directory / (await redis.config_get("dbfilename"))["dbfilename"]
    return found + search("the dump", await asyncio.to_thread(dump.read_bytes), needles)


async def value_of(redis: Redis, key: bytes) -> bytes:
    """All that a key holds."""
    kind = (await redis.type(key)).decode()
    read = {
        "string": lambda: redis.get(key),
        "hash": lambda: redis.hgetall(key),
        "list": lambda: redis.lrange(key, 0, -1),
        "set": lambda: redis.smembers(key),
        "zset": lambda: redis.zrange(key, 0, -1, withscores=True),
        "stream": lambda: redis.xrange(key),
        "none": lambda: asyncio.sleep(0, b""),  # it has gone meanwhile
    }
    return flat(await read[kind]())


def flat(value: Any) -> bytes:
    """All bytes in a value of Redis, one after the other."""
    if isinstance(value, Mapping):
        return b"\0".join(flat(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple | set):
        return b"\0".join(flat(one) for one in value)
    return value if isinstance(value, bytes) else str(value).encode()


def of_process(pid: int, name: str) -> bytes:
    """What the kernel says of a process; nothing where it has ended. Blocks."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


async def pages(stack: Stack) -> dict[str, bytes]:
    """What each service says at /metrics."""
    names = [name for name in await stack.names() if name not in (*SERVERS, "stack")]
    return {name: await asyncio.to_thread(page, stack, name) for name in names}


def page(stack: Stack, name: str) -> bytes:
    """What a service says at /metrics. Blocks."""
    noted = read_json(run_file(stack.directory, name))
    assert noted is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{noted['port']}/metrics", timeout=SECONDS) as answer:
        read: bytes = answer.read()
    return read
