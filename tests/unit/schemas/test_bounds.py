"""No request may ask for unbounded work: what lies on a bound is taken, what lies beyond is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import msgspec
import pytest

from llmos.infra.log.port import Place, Record
from llmos.infra.settings import load
from llmos.pipelines.kinds.base import read_input
from llmos.schemas.admitted import Refusal
from llmos.schemas.base import MSGPACK
from llmos.schemas.catalog import Tenant
from llmos.schemas.control import CONTROL
from llmos.schemas.errors import Forged, InvalidRequest, Malformed, RecordError
from llmos.schemas.limits import (
    CHOICES,
    ITEMS,
    OUTPUT_TOKENS,
    PAYLOAD_BYTES,
    STOP_CHARACTERS,
    STOP_STRINGS,
    TIMEOUT_SECONDS,
    TOP_LOGPROBS,
)
from llmos.schemas.requests import REQUESTS
from llmos.schemas.tasks import INPUTS
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.reading import Rules, read_request

PLAIN = {"type": "request/1", "request_id": "r", "tenant": "t", "kind": "echo", "input": {"text": "x"}}

# field, values on the bounds, values beyond them
REQUEST: list[tuple[str, list[Any], list[Any]]] = [
    ("request_id", ["r", "r" * 128], ["", "r" * 129, 7, None]),
    ("tenant", ["t", "a.b_c-9", "t" * 64], ["", "t" * 65, "T", ".t", "t ", "t\n", "t\0", "té", None]),
    ("kind", ["k", "a:b@c/d+e", "k" * 128], ["", "k" * 129, "/k", "k k", "k\n", 7]),
    ("model", ["", "m" * 256], ["m" * 257, 7, None]),
    ("payload", [b"", bytes(PAYLOAD_BYTES)], [bytes(PAYLOAD_BYTES + 1), "text", None]),
    ("sealed", [True, False], [1, "true", None]),
    ("idempotency_key", [None, "k", "k" * 128], ["", "k" * 129, b"k"]),
    ("priority", [0, 9], [-1, 10, 2**64 - 1, 4.5, True, "4", None]),
    ("timeout", [None, 1e-9, 1, TIMEOUT_SECONDS], [0, -0.0, -1, TIMEOUT_SECONDS + 1, math.inf, math.nan, "60"]),
    ("events", [None, "none", "states", "tokens"], ["all", "", 1]),
    ("reply_to", [None, "a", "reply.a_b-C", "r" * 249], ["", "r" * 250, "a b", "a\n", "a/b"]),
    ("reply_key", [b"", bytes(4096)], [bytes(4097), "key"]),
    ("crc32c", [None, 0, 2**32 - 1], [-1, 2**32, 1.5]),
    ("submitted_at", [0, 1e12], [-1, 1.1e12, math.inf, math.nan, None]),
    ("nonce", [b"", bytes(32)], [bytes(33), "nonce", None]),
    ("mac", [b"", bytes(32)], [bytes(33), "mac"]),
    ("traceparent", ["", "t" * 64], ["t" * 65, None]),
]
RULES = Rules(300.0, ["reply."], 900.0, lambda _: None)
UNANSWERED = ("request_id", "tenant", "mac")
TEXTS: tuple[list[Any], list[Any]] = (
    ["", "x" * PAYLOAD_BYTES, ["x"], [""] * ITEMS],
    ["x" * (PAYLOAD_BYTES + 1), [], [""] * (ITEMS + 1), [7], 7, None, {"x": 1}],
)
INPUT: list[tuple[str, str, list[Any], list[Any]]] = [
    ("echo", "text", *TEXTS),
    ("embed", "text", *TEXTS),
    ("generate", "prompt", *TEXTS),
    ("generate", "max_tokens", [1, OUTPUT_TOKENS], [0, -1, OUTPUT_TOKENS + 1, 2**63, 1.5, True, None]),
    ("generate", "temperature", [0, 10], [-0.1, 10.1, math.inf, math.nan, "0"]),
    ("generate", "top_k", [0, 1_000_000], [-1, 1_000_001, 0.5]),
    ("generate", "top_p", [1e-9, 1], [0, -0.1, 1.1, math.nan]),
    ("generate", "min_p", [0, 1], [-0.1, 1.1, math.nan, "0"]),
    ("generate", "presence_penalty", [-2, 2], [-2.1, 2.1, math.nan]),
    ("generate", "frequency_penalty", [-2, 2], [-2.1, 2.1, math.nan]),
    ("generate", "repetition_penalty", [1e-9, 10], [0, -1, 10.1, math.nan]),
    ("generate", "n", [1, CHOICES], [0, CHOICES + 1, 1.5, None]),
    ("generate", "logprobs", [None, 0, TOP_LOGPROBS], [-1, TOP_LOGPROBS + 1, 0.5, True]),
    ("generate", "seed", [0, 2**63 - 1], [-1, 2**63, 1.5]),
    ("generate", "stop", [[], ["."], ["." * STOP_CHARACTERS] * STOP_STRINGS],
     [["."] * (STOP_STRINGS + 1), [""], ["." * (STOP_CHARACTERS + 1)], ".", None, [7]]),
]  # fmt: skip


def rows(table: list[Any]) -> list[Any]:
    """The table's rows as parameters, named by their fields."""
    return [pytest.param(*row, id="-".join(str(cell) for cell in row[:-2])) for row in table]


def submitted(record: bytes, *, mac: str = "optional") -> Any:
    """What ingest makes of a record on `requests`."""
    tenant = Tenant(name="t", plaintext="allow", mac=mac)  # type: ignore[arg-type]
    tenants = Tenants({"t": tenant}.get, lambda *_: (bytes(32),))
    return read_request(Record(Place("requests", 0), 0, 5.0, None, record), tenants, 5.0, RULES).message


def test_the_tables_name_every_field() -> None:
    """A field that is added to a request or an input needs a row, or a word here why it has none."""
    fields = set(REQUESTS.types[0].__struct_fields__)
    assert fields - {row[0] for row in REQUEST} == {"input"}  # any value at all; the kind's table holds it
    assert {(kind, field) for kind, type_ in INPUTS.items() for field in type_.__struct_fields__} == {
        *((kind, field) for kind, field, _, _ in INPUT),
        ("generate", "messages"),  # structs, which decode to other than what was sent: a test of their own
    }


def test_messages_are_held_to_their_bounds() -> None:
    """Roles are known ones, contents texts, and there are not too many; the field is named."""
    turn = {"role": "user", "content": "x"}
    read = read_input(INPUTS["generate"], msgpack.packb({"messages": [turn] * ITEMS}), MSGPACK)
    assert len(read.messages) == ITEMS
    for bad in (
        [turn] * (ITEMS + 1),
        [{**turn, "role": "robot"}],
        [{"role": "user"}],
        [{**turn, "content": 7}],
        turn,
        None,
    ):
        with pytest.raises(InvalidRequest) as refused:
            read_input(INPUTS["generate"], msgpack.packb({"messages": bad}), MSGPACK)
        assert str(refused.value.values["where"]).startswith("input.messages")


@pytest.mark.parametrize(("field", "good", "bad"), rows(REQUEST))
def test_a_request_is_held_to_its_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    """On the bound it is read; beyond it is malformed, and the field is named."""
    for value in good:
        assert getattr(REQUESTS.decode(msgpack.packb({**PLAIN, field: value})), field) == value
    for value in bad:
        with pytest.raises(Malformed, match=rf"`\$\.{field}`"):
            REQUESTS.decode(msgpack.packb({**PLAIN, field: value}))


@pytest.mark.parametrize(("field", "good", "bad"), rows([row for row in REQUEST if row[0] not in UNANSWERED]))
def test_ingest_answers_what_lies_out_of_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    """With a request id and a tenant to answer to it is no dead letter: the refusal names the field."""
    for value in bad:
        refusal = submitted(msgpack.packb({**PLAIN, field: value}))
        assert isinstance(refusal, Refusal)
        assert refusal.head.request_id == "r"
        assert (refusal.error.code, refusal.error.retryable) in {("invalid_request", False), ("too_large", False)}
        assert field in refusal.error.message


@pytest.mark.parametrize("field", UNANSWERED)
def test_ingest_answers_nobody_in_particular(field: str) -> None:
    """Without a usable request id, tenant or signature there is nobody to answer: a record error, a dead letter."""
    for value in next(bad for name, _, bad in REQUEST if name == field):
        with pytest.raises(RecordError):
            submitted(msgpack.packb({**PLAIN, field: value}))


@pytest.mark.parametrize(("kind", "field", "good", "bad"), rows(INPUT))
def test_an_input_is_held_to_its_bounds(kind: str, field: str, good: list[Any], bad: list[Any]) -> None:
    """On the bound it is read; beyond it is an invalid request, and the field is named."""
    needed = {"generate": {"prompt": "x"}, "embed": {}, "echo": {}}[kind]
    for value in good:
        assert getattr(read_input(INPUTS[kind], msgpack.packb({**needed, field: value}), MSGPACK), field) == value
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            read_input(INPUTS[kind], msgpack.packb({**needed, field: value}), MSGPACK)
        assert str(refused.value.values["where"]).startswith(f"input.{field}")


def test_nobody_signed_what_cannot_be_written() -> None:
    """A number that JSON can say and MessagePack cannot is a forgery where a signature is required, not a crash."""
    text = json.dumps({**PLAIN, "priority": 2**70}).encode()
    record = Record(Place("requests", 0), 0, 5.0, None, text, (("content-type", b"application/json"),))
    tenants = Tenants({"t": Tenant(name="t")}.get, lambda *_: (bytes(32),))
    with pytest.raises(Forged):
        read_request(record, tenants, 5.0, RULES)


def test_any_depth_is_a_record_error_or_a_refusal() -> None:
    """Around the deepest value that can be read there is none that can be read and then not be signed."""
    head = msgpack.packb({k: v for k, v in PLAIN.items() if k != "input"})
    start = bytes([head[0] + 1]) + head[1:] + msgpack.packb("priority")
    for depth in range(300, 1100):
        with pytest.raises(RecordError):
            submitted(start + b"\x91" * depth + b"\xc0", mac="required")


def test_the_longest_waits_hang_together() -> None:
    """The longest time-out is a tenant's longest by default, and a credit is kept for longer than that."""
    assert Tenant(name="t").longest_timeout == TIMEOUT_SECONDS
    assert load().ingest.hold_seconds > TIMEOUT_SECONDS


CONTROL_FIELDS = [
    ({"type": "drain/1", "device": "d", "at": 1.0}, "id"),
    ({"type": "model_command/1", "id": "c", "what": "load", "at": 1.0}, "alias"),
    ({"type": "model_command/1", "id": "c", "what": "load", "at": 1.0}, "device"),
    ({"type": "model_order/1", "what": "load", "identity": "m", "at": 1.0}, "identity"),
    ({"type": "model_order/1", "what": "load", "identity": "m", "at": 1.0}, "device"),
]


@pytest.mark.parametrize(
    ("plain", "field"), CONTROL_FIELDS, ids=lambda value: value if isinstance(value, str) else None
)
def test_words_on_control_are_bounded(plain: dict[str, Any], field: str) -> None:
    """Whoever may write there has nobody keep, log or send back a megabyte."""
    for good in ("", "x" * 128):
        assert getattr(CONTROL.decode(msgpack.packb(plain | {field: good})), field) == good
    with pytest.raises(Malformed):
        CONTROL.decode(msgpack.packb(plain | {field: "x" * 129}))


def test_every_text_on_control_is_bounded() -> None:
    """Also one that is added."""
    for kind in CONTROL.types:
        for field in msgspec.structs.fields(kind):
            schema = msgspec.json.schema(field.type)
            for option in schema.get("anyOf", [schema]):
                assert option.get("type") != "string" or "enum" in option or "maxLength" in option, (kind, field.name)
