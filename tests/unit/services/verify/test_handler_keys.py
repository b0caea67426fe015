"""The handler of verify, when payloads are damaged, keys change or are missing, and secrets rotate."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from llmos.infra.crypto.channels import digest_key
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import parse
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import mac
from llmos.infra.crypto.secrets import fingerprint, wrap_secret
from llmos.infra.log.port import Out, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages import rereading
from llmos.infra.stages.one_in_one_out import Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.tenants import TenantTable
from llmos.infra.telemetry.metrics import WITHOUT_TENANT_KEY
from llmos.pipelines.kinds.parts import open_part
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import ErrorInfo
from llmos.schemas.sealed import Job
from llmos.services.verify import handler as module
from llmos.services.verify.directory import ModelDirectory
from llmos.services.verify.handler import VerifyHandler
from tests.kit.bench import KEYS, NOW, SECRET, HandClock, head, record, tenant
from tests.kit.sealing import admitted_of, sealed_request
from tests.unit.services.verify.handling import PLACE, echo, message_of, settle


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offsets of the records that were read again."""
    read: list[int] = []
    original = rereading.read_again

    async def read_again(log: Any, found: Record) -> Record | None:
        read.append(found.offset)
        return await original(log, found)

    monkeypatch.setattr(rereading, "read_again", read_again)
    return read


def damaged(message: Admitted) -> bytes:
    """The message with its last payload byte changed on the way."""
    value = encode(message)
    at = value.index(message.payload) + len(message.payload) - 1
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


async def test_a_damaged_payload_is_read_again(ctx: Context, handler: VerifyHandler, again: list[int]) -> None:
    """The record is whole where it lies: nobody hears of what happened on its way to this stage."""
    whole = admitted_of(sealed_request({"text": "a"}))
    offset = await ctx.log.emit(PLACE, [Out(whole.head.job_id, encode(whole))])
    (settled,) = await handler.settle(PLACE, [record(damaged(whole), *PLACE, offset)], Origins())
    assert isinstance(message_of(settled), Job)
    assert again == [offset]


async def test_what_is_damaged_where_it_lies_is_refused(ctx: Context, handler: VerifyHandler, again: list[int]) -> None:
    """After one look, with an error that says that a retry helps; of many at once only one is looked at again, since each
    look takes time from those behind it."""
    clock = ctx.clock
    assert isinstance(clock, HandClock)
    values = [damaged(msgspec.structs.replace(echo(i), crc32c=1)) for i in range(4)]
    await ctx.log.emit(PLACE, [Out(b"k", value) for value in values])
    origins = Origins()
    for i, value in enumerate(values):
        clock.at += 60.0 if i == 3 else 0.0
        refusal = message_of((await handler.settle(PLACE, [record(value, *PLACE, i)], origins))[0])
        assert isinstance(refusal, Refusal)
        assert (refusal.error.code, refusal.error.retryable) == ("payload_damaged", True)
    assert again == [0, 3]


async def test_a_forged_payload_is_not_read_again(handler: VerifyHandler, again: list[int]) -> None:
    """Its checksum is right: it lies there as it came."""
    message = admitted_of(sealed_request({"text": "a"}))
    forged = msgspec.structs.replace(message, payload=message.payload[:-1] + b"\0", crc32c=None)
    forged = msgspec.structs.replace(forged, crc32c=crc32c(forged.payload))
    refusal = message_of((await settle(handler, forged))[0])
    assert isinstance(refusal, Refusal)
    assert (refusal.error.code, again) == ("envelope_rejected", [])


@pytest.mark.parametrize("there", [None, b"\xc1", encode(echo(7)), encode(Refusal(head=head(), error=ErrorInfo(code="c", message="m"), stage="s"))], ids=range(4))  # fmt: skip
async def test_another_record_in_its_place_changes_nothing(
    ctx: Context, handler: VerifyHandler, there: bytes | None
) -> None:
    """What a second look finds is taken only where it is the same submission."""
    if there is not None:
        await ctx.log.emit(PLACE, [Out(b"k", there)])
    message = msgspec.structs.replace(echo(0), crc32c=1)
    (settled,) = await handler.settle(PLACE, [record(encode(message), *PLACE, 0)], Origins())
    refusal = message_of(settled)
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == "payload_damaged"


def keys_of(settlement: Settlement) -> list[str]:
    job = message_of(settlement)
    assert isinstance(job, Job)
    return [key_id for key_id, _ in parse(job.parts[0].envelope).wrapped]


class Turning:
    """A keyring that others change while it is in use."""

    def __init__(self, keys: Keyring) -> None:
        self.now = keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


async def test_a_tenant_without_a_key_is_told_of_once(ctx: Context, tenants: TenantTable) -> None:
    """Its jobs are sealed for the pool alone, each counted; a key that is made is used from the next job on."""
    keys = Turning(KEYS)
    handler = VerifyHandler(dataclasses.replace(ctx, keyring=keys), tenants, ModelDirectory(3.0))
    pool = KEYS.active("pool").id
    before = WITHOUT_TENANT_KEY._value.get()
    with capture_logs() as events:
        assert [keys_of(s) for s in await settle(handler, echo(0), echo(1))] == [[pool]] * 2
    assert [event["tenant"] for event in events if event["event"] == "tenant_without_key"] == ["demo"]
    assert WITHOUT_TENANT_KEY._value.get() == before + 2
    keys.now = KEYS.completed(["demo"])
    (settled,) = await settle(handler, echo(2))
    assert keys_of(settled) == [keys.now.active("tenant", "demo").id, pool]
    assert WITHOUT_TENANT_KEY._value.get() == before + 2
    keys.now = KEYS
    with capture_logs() as events:
        await settle(handler, echo(3))
    assert "tenant_without_key" in [event["event"] for event in events], "it is told of anew when the key is gone"


async def test_without_a_pool_key_the_service_ends(ctx: Context, tenants: TenantTable) -> None:
    """That is nothing about the record: refusing all jobs for it would be wrong, and an operator must act."""
    pool = KEYS.active("pool").id
    keys = Keyring([entry for entry in KEYS.completed(["demo"]).entries if entry.id != pool])
    handler = VerifyHandler(dataclasses.replace(ctx, keyring=keys), tenants, ModelDirectory(3.0))
    with pytest.raises(BadSetting, match="no active key for 'pool'"):
        await settle(handler, echo(0))


NEW = b"n" * 32


def rotated(until: float) -> Tenant:
    """The tenant after its secret was rotated."""
    key_id, wrapped = wrap_secret(KEYS, "demo", NEW)
    old = tenant()
    return tenant(
        wrapped_secret=wrapped, key_id=key_id, previous_secret=old.wrapped_secret, previous_key_id=old.key_id,
        previous_until=until,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("signed_with", "until", "used", "other"),
    [
        (fingerprint(SECRET), NOW + 60, SECRET, NEW),
        (fingerprint(NEW), NOW + 60, NEW, SECRET),
        (b"", NOW + 60, NEW, SECRET),
        (fingerprint(b"x" * 32), NOW + 60, NEW, SECRET),
        (fingerprint(SECRET), NOW - 60, SECRET, NEW),
        (fingerprint(NEW), NOW - 60, NEW, None),
    ],
    ids=["the old one", "the new one", "none", "a third", "one that held when it was sent", "the new one, alone"],
)
async def test_digests_are_made_under_the_secret_that_the_client_has(
    handler: VerifyHandler, tenants: TenantTable, signed_with: bytes, until: float, used: bytes, other: bytes | None
) -> None:
    """A client that has not heard of a rotation of its secret checks answers with the one it signed with."""
    tenants.table.take(record(encode(rotated(until)), "tenants", key=b"demo"))
    message = msgspec.structs.replace(echo(0, admitted_at=NOW), signed_with=signed_with)
    job = message_of((await settle(handler, message))[0])
    assert isinstance(job, Job)
    assert open_part(KEYS, job.head, job.parts[0]).digest_key == digest_key(used, job.head.job_id)
    content = msgspec.msgpack.encode([job.head.job_id, "echo", "", {"text": "hello"}])
    assert job.head.content_digest == mac(used, content)
    assert job.head.other_digest == (mac(other, content) if other else b"")


async def test_a_tenant_without_a_secret_has_digests_that_nobody_can_guess(
    handler: VerifyHandler, tenants: TenantTable
) -> None:
    """They are made under a key that comes of the system's own, the same ones each time."""
    tenants.table.take(record(encode(tenant(wrapped_secret=b"", key_id="")), "tenants", key=b"demo"))
    found = [message_of(settled) for settled in await settle(handler, echo(0), echo(1, "hello"))]
    keys = [open_part(KEYS, job.head, job.parts[0]).digest_key for job in found if isinstance(job, Job)]
    assert len(set(keys)) == 2
    assert digest_key(b"", found[0].head.job_id) not in keys


async def test_a_fault_of_ours_quotes_nothing(
    ctx: Context, tenants: TenantTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the answer nor the log says what the exception said: it may be the payload."""

    def check(*_: Any) -> None:
        raise KeyError("canary")

    monkeypatch.setattr(module, "check", check)
    with capture_logs() as events:
        refusal = message_of((await settle(VerifyHandler(ctx, tenants, ModelDirectory(3.0)), echo(0)))[0])
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == "unexpected"
    assert "KeyError at test_handler_keys.py" in refusal.error.message
    assert "canary" not in repr(refusal) + repr(events)
