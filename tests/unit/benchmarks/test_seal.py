"""What the sealing benchmark measures is what it says: each step does its work, and both askers ask for the same job."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from rich.console import Console

from benchmarks.pipeline.probe import TEXT
from benchmarks.seal import pipeline, records, steps
from benchmarks.seal.steps import Parties
from llmos.infra.crypto.channels import digest_key, event_bound, item_bound
from llmos.infra.crypto.credentials import Credentials, PublicKey, ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import Secret
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.receipts import check_receipt
from llmos.pipelines.kinds.parts import PartSeals
from llmos.schemas.base import encode
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.ids import job_id
from llmos.schemas.job import Item, Origin
from llmos.schemas.requests import REQUESTS
from llmos.schemas.results import Answer
from llmos.schemas.stream import STREAM
from llmos.schemas.tasks import EchoOutput

REPLY = ReplyKey.fresh()
SYSTEM = Keyring.memory("demo")
CREDENTIALS = Credentials(
    tenant="demo",
    secret=b"s" * 32,
    reply_keys=[REPLY],
    system_keys=[PublicKey(id=SYSTEM.active("ingress").id, purpose="ingress", key=SYSTEM.active("ingress").public)],
)


@pytest.mark.parametrize("algorithm", ["x25519", "mlkem768-x25519"])
def test_a_record_passes_all_steps(algorithm: Recipient) -> None:
    """From client to worker and back, the payload and the output are those that were sealed, and codes are checked."""
    parties, payload = Parties.fresh(algorithm), steps.input_of(200)
    request = steps.sealed_request(parties, "one", payload)
    assert steps.check_request(parties, request)
    assert not steps.check_request(parties, msgspec.structs.replace(request, priority=9))
    assert steps.open_request(parties, request) == payload
    head = steps.head_of("one")
    part = steps.only_part(steps.seal_part(parties, head, payload))
    assert steps.open_work(parties, head, part) == payload
    output = steps.output_of(200)
    item = msgspec.msgpack.decode(
        steps.sealed_item(parties, head, digest_key(parties.secret, head.job_id), output), type=Item
    )
    assert steps.open_item(parties, head, item.output) == output
    assert output not in item.output


def test_a_token_event_passes_all_steps() -> None:
    """Nothing of its text is left in the clear."""
    parties, head = Parties.fresh(), steps.head_of("one")
    event = steps.token_event(head, 0)
    data_key = parties.answering.data_key(event_bound(steps.TENANT, event))
    sealed = steps.sealed_event(data_key, event, "a canary")
    assert b"canary" not in sealed
    assert b"a canary" in steps.open_event(parties, STREAM.decode(sealed))


def test_a_receipt_is_signed_by_the_system() -> None:
    """Its signature holds under the public key."""
    parties = Parties.fresh()
    record = steps.signing(parties)(steps.receipt_of(steps.head_of("one")))
    key = parties.system.active("receipt")
    assert check_receipt(record, {key.id: key.public})


def test_every_step_has_a_figure_beside_its_bound() -> None:
    """For each size, and once for what has none; what is measured is what the module's page says."""
    rows = asyncio.run(records.run(Console(quiet=True), rounds=1, records=2))
    assert len({row.what for row in rows}) == len(rows)
    assert all(row.value > 0 and row.peer_value > 0 and row.unit == "µs" for row in rows)
    for size in records.SIZES:
        assert sum(row.what.endswith(f" {size:,} B") for row in rows) == 7


def test_both_askers_ask_for_the_same_job() -> None:
    """One seals and signs, the other does neither; kind, lane, events and text are the same."""
    on, off = pipeline.targets(CREDENTIALS, 8)
    sealed, clear = (REQUESTS.decode(target.request("one")) for target in (on, off))
    assert (on.source, on.results) == (off.source, off.results)
    assert (sealed.kind, sealed.tenant, sealed.events) == (clear.kind, clear.tenant, clear.events)
    assert sealed.sealed
    assert sealed.mac
    assert not clear.sealed
    assert not clear.mac
    parties = Parties(CREDENTIALS.secret, REPLY, ReplyKeys([REPLY]), SYSTEM, PartSeals(SYSTEM), *[_secret()] * 2)
    assert steps.check_request(parties, sealed)
    assert steps.open_request(parties, sealed) == clear.payload


def test_an_asker_reads_only_what_it_should() -> None:
    """A sealed answer is opened and its text compared; a clear one is no answer for who seals, and the other way round."""
    on, off = pipeline.targets(CREDENTIALS, 8)
    assert on.id_of(_answer(sealed=True)) == off.id_of(_answer(sealed=False)) == "one"
    with pytest.raises(RuntimeError, match="in the clear"):
        on.id_of(_answer(sealed=False))
    with pytest.raises(RuntimeError, match="came sealed"):
        off.id_of(_answer(sealed=True))
    with pytest.raises(RuntimeError, match="another text"):
        on.id_of(_answer(sealed=True, text="other"))
    with pytest.raises(EnvelopeRejected):
        on.id_of(_answer(sealed=True, epoch=2))


def test_what_came_of_the_rounds_is_shown_as_ratios() -> None:
    """Only the goals have a target, and both can be missed."""
    figures = {
        (name, what): [value, value, 2 * value]
        for name, value in ((pipeline.ON, 1.2), (pipeline.OFF, 1.0))
        for what in ("p50 at 20/s", "p99 at 20/s", "p50 at 200/s", "p99 at 200/s", "highest rate")
    }
    rows = pipeline.rows_of(figures)
    assert [(row.target, row.ok) for row in rows if row.target] == [("<= 1.15", False)] * 2 + [(">= 0.9", True)]


def _secret() -> Secret:
    return Secret.for_public(REPLY.public, "demo")


def _answer(*, sealed: bool, text: str = TEXT, epoch: int = 1) -> bytes:
    answer = Answer(
        job_id=job_id("demo", "one"),
        tenant="demo",
        request_id="one",
        origin=Origin("requests", 0, 1),
        partition=0,
        s=1,
        status="completed",
        kind="echo",
        epochs=[epoch],
    )
    output = msgspec.msgpack.encode(EchoOutput(text=text))
    if sealed:
        bound = item_bound(answer, 0, 1, 0)
        output = _secret().data_key(bound).seal(bound, output)
    return encode(msgspec.structs.replace(answer, items=[Item(output_index=0, output=output, sealed=sealed)]))
