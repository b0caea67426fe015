"""What can still be read of a request with a field out of its bounds: enough to authenticate and to answer it. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmos.schemas.base import JSON
from llmos.schemas.errors import InvalidRequest, Malformed, RefusedError, TooLarge
from llmos.schemas.limits import PAYLOAD_BYTES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")


class Loose(msgspec.Struct, kw_only=True):
    """A request of which only the identity is held to its bounds. Its fields and defaults are those of `Request`."""

    type: str
    request_id: str
    tenant: str
    kind: Any = ""
    model: Any = ""
    input: msgspec.Raw = msgspec.Raw()
    payload: Any = b""
    sealed: Any = False
    idempotency_key: Any = None
    priority: Any = 4
    timeout: Any = None
    events: Any = None
    reply_to: Any = None
    reply_key: Any = b""
    crc32c: Any = None
    submitted_at: Any = 0.0
    nonce: Any = b""
    mac: Any = b""
    traceparent: Any = ""

    @property
    def named_kind(self) -> str:
        """The kind where it is a name; empty: it is none."""
        return self.kind if isinstance(self.kind, str) and _NAME.fullmatch(self.kind) else ""

    @property
    def key(self) -> str:
        """What names the work."""
        key = self.idempotency_key
        return key if isinstance(key, str) and 1 <= len(key) <= 128 else self.request_id


def read_loosely(data: bytes, content_type: str, problem: Malformed) -> Loose:
    """The request of which `problem` is wrong. Raises `problem` where nobody could be answered."""
    decode = msgspec.json.decode if content_type == JSON else msgspec.msgpack.decode
    try:
        loose = _as_signed(decode(data, type=Loose), content_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise problem from None
    if not 1 <= len(loose.request_id) <= 128:
        raise problem
    return loose


def reason(loose: Loose, problem: Malformed) -> RefusedError:
    """What its sender is told."""
    if isinstance(loose.payload, bytes | str) and len(loose.payload) > PAYLOAD_BYTES:
        return TooLarge(what="the payload", size=len(loose.payload), limit=PAYLOAD_BYTES)
    text = str(problem.values.get("problem", problem))
    where = text.rpartition("`$.")[2].partition("`")[0] if "`$." in text else "the request"
    return InvalidRequest(where=where, problem=text.partition(" - at")[0])


def _as_signed(loose: Loose, content_type: str) -> Loose:
    """The fields as `Request` has them, since the code covers those: numbers as floats, base64 of JSON as bytes."""
    wanted: dict[str, Any] = {"timeout": float | None, "submitted_at": float}
    if content_type == JSON:
        wanted |= {"payload": bytes, "reply_key": bytes, "nonce": bytes, "mac": bytes}
    for name, type_ in wanted.items():
        try:
            setattr(loose, name, msgspec.convert(getattr(loose, name), type_))
        except msgspec.ValidationError:
            continue  # this field is what is wrong with the request: it stays as it came
    return loose
