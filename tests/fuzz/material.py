"""What a hostile client might write: values for any field, as MessagePack and as JSON, and records made of them.

Fields are put together byte by byte, so that a record may hold what no encoder would write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

DEEP: Final = 100_000
MANY: Final = 100_000
Fields = Mapping[str, bytes]
"""Field → its value, written."""
NOTHING: Final[Fields] = {}


def mp(value: object) -> bytes:
    """MessagePack of an ordinary value."""
    return msgspec.msgpack.encode(value)


def js(value: object) -> bytes:
    """JSON of an ordinary value."""
    return msgspec.json.encode(value)


MSGPACK_VALUES: Final[dict[str, bytes]] = {
    "nil": mp(None),
    "true": mp(True),
    "zero": mp(0),
    "minus one": mp(-1),
    "least integer": mp(-(2**63)),
    "greatest integer": mp(2**64 - 1),
    "NaN": mp(float("nan")),
    "infinity": mp(float("inf")),
    "minus infinity": mp(float("-inf")),
    "huge float": mp(1e308),
    "minus zero": mp(-0.0),
    "empty text": mp(""),
    "path": mp("../../../../etc/passwd"),
    "topic of the system": mp("results"),
    "zero bytes": mp("a\0b\0"),
    "line ends": mp("a\r\nb\x1b[2J"),
    "format": mp("{0.__class__}%s%n{tenant}"),
    "not UTF-8": b"\xa2\xff\xfe",
    "half a surrogate pair": b"\xa3\xed\xa0\x80",
    "right to left": mp("\u202e\u2066name"),
    "long text": mp("x" * 300_000),
    "long name": mp("n" * 4096),
    "empty bytes": mp(b""),
    "some bytes": mp(b"\x00\xff" * 20),
    "many bytes": mp(b"\xff" * 300_000),
    "empty list": mp([]),
    "empty map": mp({}),
    "100,000 numbers": mp([1] * MANY),
    "100,000 texts": mp(["s"] * MANY),
    "many empty texts": mp([""] * MANY),
    "1,025 texts": mp(["t"] * 1025),
    "1,024 texts": mp(["t"] * 1024),
    "map of many": mp({f"k{i}": i for i in range(20_000)}),
    "map of numbers": mp({i: i for i in range(100)}),
    "the same key twice": b"\x82\xa1a\x01\xa1a\x02",
    "nested lists": b"\x91" * DEEP + b"\xc0",
    "nested maps": b"\x81\xa1k" * DEEP + b"\xc0",
    "nested a little": b"\x91" * 300 + b"\xc0",
    "list of 2**32": b"\xdd\xff\xff\xff\xff",
    "list of 2**16": b"\xdc\xff\xff",
    "map of 2**32": b"\xdf\xff\xff\xff\xff",
    "text of 2**32": b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32": b"\xc6\xff\xff\xff\xff",
    "lists of 2**32 in lists": b"\xdd\xff\xff\xff\xff" * 2000,
    "ext": b"\xc7\x03\x05abc",
    "ext of 2**32": b"\xc9\xff\xff\xff\xff\x01",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "timestamp far away": b"\xc7\x0c\xff" + b"\xff" * 12,
    "reserved": b"\xc1",
    "nothing": b"",
    "message in a message": mp({"type": "request/1", "tenant": "demo", "request_id": "r", "kind": "echo"}),
}
JSON_VALUES: Final[dict[str, bytes]] = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "minus one": b"-1",
    "minus zero": b"-0.0",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "huge exponent": b"1e999999999",
    "tiny": b"1e-999999999",
    "long integer": b"9" * 20_000,
    "long fraction": b"0." + b"3" * 20_000,
    "integer of 70 bits": str(2**70).encode(),
    "empty text": b'""',
    "path": b'"..\\/..\\/..\\/etc\\/passwd"',
    "zero byte": b'"a\\u0000b"',
    "raw zero byte": b'"a\x00b"',
    "half a surrogate pair": b'"\\ud800"',
    "halves the wrong way round": b'"\\udc00\\ud800"',
    "not UTF-8": b'"\xff\xfe"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "broken escape": b'"\\x41"',
    "base64": b'"AAECAw=="',
    "broken base64": b'"@@@="',
    "long text": b'"' + b"x" * 300_000 + b'"',
    "long escapes": b'"' + b"\\u0041" * 50_000 + b'"',
    "no end": b'"xxx',
    "empty list": b"[]",
    "empty map": b"{}",
    "100,000 numbers": b"[" + b"1," * (MANY - 1) + b"1]",
    "100,000 texts": b"[" + b'"s",' * (MANY - 1) + b'"s"]',
    "1,024 texts": js(["t"] * 1024),
    "map of many": js({f"k{i}": i for i in range(20_000)}),
    "the same key twice": b'{"a": 1, "a": 2}',
    "nested lists": b"[" * DEEP + b"]" * DEEP,
    "nested maps": b'{"k":' * DEEP + b"1" + b"}" * DEEP,
    "nested a little": b"[" * 300 + b"]" * 300,
    "open lists": b"[" * DEEP,
    "comment": b"/* */ 1",
    "nothing": b"",
    "word": b"undefined",
}


def packed(fields: Fields) -> bytes:
    """A MessagePack map of these fields."""
    return struct.pack(">BI", 0xDF, len(fields)) + b"".join(mp(name) + value for name, value in fields.items())


def written(fields: Fields) -> bytes:
    """A JSON object of these fields."""
    return b"{" + b",".join(js(name) + b":" + value for name, value in fields.items()) + b"}"


REQUEST_FIELDS: Final = (
    "type", "request_id", "tenant", "kind", "model", "input", "payload", "sealed", "idempotency_key", "priority", "timeout",
    "events", "reply_to", "reply_key", "crc32c", "submitted_at", "nonce", "mac", "traceparent", "unknown",
)  # fmt: skip
INPUT_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "echo": ("text", "unknown"),
    "embed": ("text", "unknown"),
    "generate": (
        "prompt", "messages", "max_tokens", "temperature", "top_k", "top_p", "min_p", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "seed", "stop", "n", "logprobs", "unknown",
    ),
}  # fmt: skip
INPUTS: Final[dict[str, dict[str, object]]] = {
    "echo": {"text": "hello"},
    "embed": {"text": ["hello", "world"]},
    "generate": {"prompt": "hello", "max_tokens": 4},
}
MODEL: Final = "model"
"""A model that does all that needs one."""


def request(kind: str = "echo", **changes: object) -> dict[str, object]:
    """The fields of a good request of the demo tenant, without its input."""
    model = {} if kind == "echo" else {"model": MODEL}
    return {"type": "request/1", "request_id": "r", "tenant": "demo", "kind": kind, **model, **changes}


def packed_request(kind: str = "echo", values: Fields = NOTHING, *, without: str = "") -> bytes:
    """A request in MessagePack; `values` are written already, and take the place of what is usual."""
    usual = {name: mp(value) for name, value in request(kind).items()} | {"input": mp(INPUTS[kind])}
    return packed({name: value for name, value in {**usual, **values}.items() if name != without})


def written_request(kind: str = "echo", values: Fields = NOTHING) -> bytes:
    """The same in JSON."""
    usual = {name: js(value) for name, value in request(kind).items()} | {"input": js(INPUTS[kind])}
    return written({**usual, **values})


def packed_input(kind: str, values: Fields) -> bytes:
    """An input in MessagePack, with other values than usual."""
    return packed({**{name: mp(value) for name, value in INPUTS[kind].items()}, **values})


def written_input(kind: str, values: Fields) -> bytes:
    """The same in JSON."""
    return written({**{name: js(value) for name, value in INPUTS[kind].items()}, **values})
