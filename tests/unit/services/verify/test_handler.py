"""The handler of verify: sealed, refused, passed on, dropped or dead; one record out for one record in."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.credentials import ReplyKey
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.runtime.context import Context
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Repeated
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.tenants import TenantTable
from llmos.pipelines.kinds.parts import open_part
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.catalog import Alias, Model, NodeModels, Quarantined, alias_key, node_models_key
from llmos.schemas.dead import DEAD
from llmos.schemas.job import ErrorInfo
from llmos.schemas.sealed import Job
from llmos.services.verify import handler as module
from llmos.services.verify.directory import ModelDirectory
from llmos.services.verify.handler import THREAD_BYTES, VerifyHandler
from tests.kit.bench import KEYS, head, origin, record, tenant
from tests.kit.sealing import admitted_of, sealed_request
from tests.unit.services.verify.handling import PLACE, echo, message_of, settle

OWNER = ReplyKey.fresh()


async def test_a_submission_is_sealed(handler: VerifyHandler) -> None:
    """It goes to the same partition of `sealed`, unreadable there, and the worker's keys open it."""
    (settlement,) = await settle(handler, echo(0, "a secret"))
    job = message_of(settlement)
    assert isinstance(job, Job)
    assert isinstance(settlement, Emitted)
    assert b"a secret" not in (settlement.out.value or b"")
    assert msgspec.msgpack.decode(open_part(KEYS, job.head, job.parts[0]).input) == {"text": ["a secret"]}


async def test_refusals_of_ingest_are_passed_on(handler: VerifyHandler) -> None:
    """Byte by byte as they came."""
    refusal = encode(Refusal(head=head(), error=ErrorInfo(code="invalid_request", message="no"), stage="ingest"))
    (settlement,) = await settle(handler, refusal)
    assert isinstance(settlement, Emitted)
    assert settlement.out.value == refusal


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (echo(0, kind="dance"), "unknown_kind"),
        (echo(0, 7, kind="embed", model_name="gpt"), "invalid_request"),
        (echo(0, kind="embed", model_name="gpt"), "unknown_model"),
        (echo(0, tenant="gone"), "unknown_tenant"),
    ],
)
async def test_what_cannot_be_done_is_refused(handler: VerifyHandler, message: Admitted, code: str) -> None:
    """A refusal takes the place of the job, under the same head."""
    refusal = message_of((await settle(handler, message))[0])
    assert isinstance(refusal, Refusal)
    assert (refusal.error.code, refusal.stage, refusal.head) == (code, "verify", message.head)


async def test_a_secret_that_does_not_open_is_a_refusal(handler: VerifyHandler, tenants: TenantTable) -> None:
    """A tenant whose secret was wrapped under lost keys gets answers, not silence."""
    tenants.table.take(record(encode(tenant(key_id="00")), "tenants", key=b"demo"))
    refusal = message_of((await settle(handler, echo(0)))[0])
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == "envelope_rejected"


async def test_a_forbidden_reply_topic_is_not_written_to(handler: VerifyHandler) -> None:
    """The refusal forgets the topic, else the refusal itself would go there."""
    refusal = message_of((await settle(handler, echo(0, reply_to="results")))[0])
    assert isinstance(refusal, Refusal)
    assert (refusal.error.code, refusal.head.reply_to) == ("reply_topic_forbidden", None)


async def test_replays_are_dropped(handler: VerifyHandler) -> None:
    """What is not above the highest origin of its source vanishes, whatever is in it; other sources go on."""
    origins = Origins()
    other = msgspec.structs.replace(echo(0).head.origin, partition=5)
    refusal = Refusal(head=head("r", 2), error=ErrorInfo(code="refused", message="no"), stage="ingest")
    settled = await settle(
        handler,
        echo(3), echo(3), echo(2), refusal, echo(4),
        Admitted(head=head("o", origin=other), payload=b"", encoding=MSGPACK),
        origins=origins,
    )  # fmt: skip
    assert [type(settlement) for settlement in settled] == [Emitted, Repeated, Repeated, Repeated, Emitted, Emitted]
    assert [type(s) for s in await settle(handler, echo(4), echo(5), origins=origins)] == [Repeated, Emitted]


async def test_an_unreadable_record_is_dead(handler: VerifyHandler) -> None:
    """It has no origin to answer to; those around it are settled all the same."""
    settled = await settle(handler, echo(0), b"\xc1", echo(1))
    assert [type(settlement) for settlement in settled] == [Emitted, DeadLettered, Emitted]
    assert isinstance(settled[1], DeadLettered)
    letter = DEAD.decode(settled[1].out.value)
    assert (letter.stage, letter.origin.topic, letter.origin.offset) == ("verify", "admitted", 1)


async def test_large_payloads_are_checked_beside_the_loop(
    handler: VerifyHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting a megabyte's tokens would hold up everything else: only small payloads are checked on the loop."""
    in_thread: list[int] = []
    original = asyncio.to_thread

    async def to_thread(call: Any, message: Admitted) -> Any:
        in_thread.append(len(message.payload))
        return await original(call, message)

    monkeypatch.setattr(module.asyncio, "to_thread", to_thread)
    settled = await settle(handler, echo(0, "x" * 2 * THREAD_BYTES), echo(1, "x"), echo(2, "x" * THREAD_BYTES))
    assert [size > THREAD_BYTES for size in in_thread] == [True, True]
    assert all(isinstance(message_of(settlement), Job) for settlement in settled)
    assert await handler.may_resume([PLACE])


async def test_an_alias_that_moves_never_mixes_two_models_in_one_job(ctx: Context, tenants: TenantTable) -> None:
    """The identity is in the head, once for all parts; who comes after the move gets the other model."""
    models = ModelDirectory(3.0)
    handler = VerifyHandler(ctx, tenants, models)
    for identity in ("a" * 64, "b" * 64):
        row = Model(
            identity=identity, name=identity[:4], architecture="bert", kinds=["embed"], parameters=1, weight_bytes=1,
            context_tokens=9, dtype="float32",
        )  # fmt: skip
        models.table.take(record(encode(row), "catalog", key=identity.encode()))

    def point(identity: str) -> None:
        row = Alias(name="best", identity=identity)
        models.table.take(record(encode(row), "catalog", key=alias_key("best")))

    texts = ["x"] * 100
    point("a" * 64)
    origins = Origins()
    before = message_of((await settle(handler, echo(0, texts, kind="embed", model_name="best"), origins=origins))[0])
    point("b" * 64)
    after = message_of((await settle(handler, echo(1, texts, kind="embed", model_name="best"), origins=origins))[0])
    assert isinstance(before, Job)
    assert isinstance(after, Job)
    assert (before.head.model, after.head.model) == ("a" * 64, "b" * 64)
    assert len(before.parts) > 1


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (NodeModels(node="x", at=1.0), "model_gone"),
        (
            NodeModels(
                node="x", at=1.0,
                quarantined=[Quarantined(name="m", directory="/m", error=ErrorInfo(code="model_damaged", message="no"))],
            ),
            "model_quarantined",
        ),
    ],
)  # fmt: skip
async def test_a_model_that_no_node_has_whole_is_refused(
    ctx: Context, tenants: TenantTable, row: NodeModels, code: str
) -> None:
    """Under a code that says which it is; the job gets its one answer."""
    models = ModelDirectory(3.0)
    model = Model(
        identity="a" * 64, name="m", architecture="bert", kinds=["embed"], parameters=1, weight_bytes=1, context_tokens=9,
        dtype="float32",
    )  # fmt: skip
    models.table.take(record(encode(model), "catalog", key=b"a" * 64))
    models.table.take(record(encode(row), "catalog", key=node_models_key("x")))
    (settlement,) = await settle(VerifyHandler(ctx, tenants, models), echo(0, kind="embed", model_name="m"))
    refusal = message_of(settlement)
    assert isinstance(refusal, Refusal)
    assert (refusal.error.code, refusal.stage) == (code, "verify")


async def test_a_sealed_request_is_opened_and_sealed_anew(handler: VerifyHandler) -> None:
    """What the client sealed for the system travels on, sealed for the workers; the head says that it was sealed."""
    job = message_of((await settle(handler, admitted_of(sealed_request({"text": "a secret"}))))[0])
    assert isinstance(job, Job)
    assert job.head.sealed
    assert msgspec.msgpack.decode(open_part(KEYS, job.head, job.parts[0]).input) == {"text": ["a secret"]}


async def test_an_envelope_that_does_not_open_is_a_refusal(handler: VerifyHandler) -> None:
    """Its sender gets an answer: whoever signed it, or has a policy without signatures, may have made a mistake."""
    message = msgspec.structs.replace(admitted_of(sealed_request({"text": "a"})), metadata=b"")
    refusal = message_of((await settle(handler, message))[0])
    assert isinstance(refusal, Refusal)
    assert (refusal.error.code, refusal.error.message) == ("envelope_rejected", "The envelope could not be opened.")


async def test_nobody_has_an_answer_sealed_to_himself(handler: VerifyHandler, tenants: TenantTable) -> None:
    """Who may read and write `admitted` copies a sealed request under a head with his own key, so as to read the answer."""
    tenants.table.take(record(encode(sealed_row(KEYS, tenant(reply_key=OWNER.public))), "tenants", key=b"demo"))
    thief, copies = ReplyKey.fresh(), []
    for n, said in enumerate(({}, {"reply_key": OWNER.public})):
        seen = admitted_of(sealed_request({"text": "a secret"}, request_id=f"r-{n}", **said), offset=2 * n)
        head_ = msgspec.structs.replace(seen.head, origin=origin(2 * n + 1), reply_key=thief.public)
        copies.append(message_of((await settle(handler, msgspec.structs.replace(seen, head=head_)))[0]))
    left_open, named = copies
    assert isinstance(left_open, Job)
    assert left_open.head.reply_key == OWNER.public  # the tenant's own, so that the copy tells the thief nothing
    assert isinstance(named, Refusal)
    assert named.error.code == "envelope_rejected"
