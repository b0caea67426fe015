"""Every service is killed in turn under load: what the receipts sum to is what clients received, exactly, and each can be checked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import msgpack
import msgspec
import pytest
import pytest_asyncio

from llmos.client import Client, Submission, TokenText
from llmos.infra.crypto.channels import digest_key, item_digest
from llmos.infra.crypto.credentials import Credentials, PublicKey, load_credentials
from llmos.infra.crypto.receipts import check_answer, check_receipt, verifying_keys
from llmos.schemas.results import Receipt
from tests.kit.asker import Asker
from tests.kit.counter import Origin, origin_of
from tests.kit.live import SECONDS, clean_environment, origin, until
from tests.kit.load import GENERATE, PROMPTS, Load
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SERVICES = ("ingest", "verify", "scheduler", "worker-node-0.cpu0", "aggregator", "node", "redis", "kafka")
STATUSES = ("completed", "failed", "cancelled", "expired", "refused", "pointer")
SEALING = ("demo", "acme")
"""These tenants seal; the third does not."""
LONG = {"prompt": list(PROMPTS) * 40, "max_tokens": 100}
"""Minutes of work."""
HEARD_SECONDS = 3.0
"""After its first token a job runs for so long before it is cancelled: heartbeats have told of it meanwhile."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with two workers; they are taken for lost soon, and many deaths are forgiven."""
    with clean_environment():
        async with Stack.start(
            tmp_path_factory.mktemp("receipts"),
            node={"cpu_devices": 2},
            scheduler={"heartbeat_timeout_seconds": 3.0, "dispatch_grace_seconds": 3.0, "deaths": 20},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


async def test_receipts_sum_to_what_clients_received(stack: Stack) -> None:
    """Requests of three tenants, sealed and clear, of every end: completed, refused, pointer, expired, cancelled."""
    credentials = {name: await credentials_of(stack, name) for name in SEALING}
    askers = {name: Asker(found) for name, found in credentials.items()}
    load = Load(stack.settings.kafka.bootstrap, askers=askers)
    others: list[Origin] = []
    async with load:
        async with Client(stack.settings, credentials=credentials["demo"]) as client:
            others += [origin(submission) for submission in await every_end(client)]
        for name in SERVICES:
            await load.more(12)
            before = await stack.kill(name)
            await load.more(12)
            await stack.back(name, before)
        await load.more(10)
    await until(lambda: settled(load), bool)

    wanted = {*load.acknowledged, *others}
    answers = {origin_of(answer): answer for answer in load.answers}
    receipts = {origin_of(receipt): receipt for receipt in load.receipts}
    assert wanted <= set(answers)
    assert {answer["status"] for answer in answers.values()} >= {
        "completed", "refused", "pointer", "expired", "cancelled",
    }  # fmt: skip
    assert max(Counter(map(origin_of, load.receipts)).values()) == 1
    cancelled = receipts[others[-1]]
    assert cancelled["status"] == "cancelled"
    assert cancelled["usage"]["tokens_in"] > 0
    assert cancelled["usage"]["tokens_out"] > 0, "what was heard before the cancel is billed"
    assert cancelled["usage"]["device_seconds"] > 0
    assert cancelled["attempts"] > 0
    assert cancelled["devices"]
    for by in (("tenant",), ("tenant", "status"), ("kind", "model")):
        assert summed(receipts.values(), by) == summed(answers.values(), by)
    assert await of_the_command(stack) == statuses_of(answers.values())
    keys = {name: found.secret for name, found in credentials.items()}
    public = verifying_keys(system_keys(credentials.values()))
    wrong = [
        problem
        for place, receipt in receipts.items()
        if (problem := problem_of(receipt, answers[place], public, keys, askers))
    ]
    assert not wrong, wrong[:5]


async def settled(load: Load) -> bool:
    """Whether there is one receipt for each answer and none without, of all that anybody received: requests that were not
    acknowledged and came through all the same are among them, and may be answered between two looks."""
    await load.settled()
    return Counter(map(origin_of, load.receipts)) == Counter(map(origin_of, load.answers))


async def every_end(client: Client) -> list[Submission]:
    """A refusal, a pointer, an expiry and a cancel."""
    key = uuid.uuid4().hex
    made = [
        await client.submit("generate", {"prompt": "x"}, model="no-such-model"),
        await client.submit("echo", {"text": "once"}, idempotency_key=key),
        await client.submit("echo", {"text": "once"}, idempotency_key=key),
        await client.submit("generate", LONG, model=GENERATE, timeout=1.0),
        await client.submit("generate", LONG, model=GENERATE, events="tokens"),
    ]
    first_at = 0.0
    async with aclosing(client.stream(made[-1], SECONDS)) as events:
        async for event in events:
            if isinstance(event, TokenText):
                first_at = first_at or time.monotonic()
                if time.monotonic() - first_at >= HEARD_SECONDS:
                    break
    await client.cancel(made[-1])
    statuses = [(await client.result(submission, SECONDS)).status for submission in made]
    assert statuses == ["refused", "completed", "completed", "expired", "cancelled"], "the pointer is followed"
    return made


def summed(messages: Iterable[Mapping[str, Any]], by: tuple[str, ...]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of answers or of receipts, for each of these fields' values: how many, tokens in, tokens out."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for message in messages:
        group = tuple(message.get(name, "") for name in by)
        count, tokens_in, tokens_out = found.get(group, (0, 0, 0))
        usage = message.get("usage", {})
        found[group] = (
            count + 1,
            tokens_in + usage.get("tokens_in", 0),
            tokens_out + usage.get("tokens_out", 0),
        )
    return found


def statuses_of(answers: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Counter[str]]:
    """Of each tenant and kind: how many ended how, and their tokens."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for answer in answers:
        row = found.setdefault((answer["tenant"], answer.get("kind", "")), Counter())
        row[answer["status"]] += 1
        for name in ("tokens_in", "tokens_out"):
            row[name] += answer.get("usage", {}).get(name, 0)
    return {group: +row for group, row in found.items()}


async def of_the_command(stack: Stack) -> dict[tuple[str, str], Counter[str]]:
    """The same, as `llmos usage` says it of receipts whose signatures it has checked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llmos", "--state-directory", str(stack.directory),
        "usage", "--json", "--check", "--by", "tenant", "--by", "kind",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    rows = [json.loads(line) for line in out.splitlines()]
    return {
        (row["tenant"], row["kind"]): +Counter(
            {name: row.get(name, 0) for name in (*STATUSES, "tokens_in", "tokens_out")}
        )
        for row in rows
    }


def problem_of(
    message: dict[str, Any],
    answer: Mapping[str, Any],
    public: Mapping[str, bytes],
    secrets: Mapping[str, bytes],
    askers: Mapping[str, Asker],
) -> str:
    """What is wrong with a receipt, given its answer; empty when nothing is. It is held to what its tenant can see: the
    signature under the public key, and the digest of what the tenant read with its own keys."""
    record = msgpack.packb(message)
    if not check_receipt(record, public):
        return f"the signature of {origin_of(message)} does not hold"
    if check_receipt(msgpack.packb(message | {"attempts": message.get("attempts", 0) + 1}), public):
        return f"the signature of {origin_of(message)} holds for other attempts, too"
    receipt = msgspec.convert(message, Receipt)
    if receipt.status != answer["status"] or receipt.code != answer.get("error", {}).get("code", ""):
        return f"{origin_of(message)} ended as {answer['status']}, its receipt says {receipt.status} {receipt.code}"
    if not check_answer(receipt, digests(answer, secrets, askers)):
        return f"the output digest of {origin_of(message)} is not that of its answer"
    return ""


def digests(answer: Mapping[str, Any], secrets: Mapping[str, bytes], askers: Mapping[str, Asker]) -> list[bytes]:
    """Of the items as the tenant opened them; of a tenant that does not seal those that came."""
    items, tenant = answer.get("items", []), answer["tenant"]
    if tenant not in secrets:
        return [item["digest"] for item in items]
    key = digest_key(secrets[tenant], answer["job_id"])
    codes = [item.get("error", {}).get("code", "") for item in items]
    return [
        item_digest(key, item.get("output_index", 0), len(items), output, code)
        for item, output, code in zip(items, askers[tenant].opened(answer), codes, strict=True)
    ]


def system_keys(all_credentials: Iterable[Credentials]) -> list[PublicKey]:
    """Those in the credentials."""
    return [key for found in all_credentials for key in found.system_keys]


async def credentials_of(stack: Stack, tenant: str) -> Credentials:
    """Those that the first start wrote."""
    return await asyncio.to_thread(load_credentials, stack.directory / "tenants" / f"{tenant}.json")
