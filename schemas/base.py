"""The wire: one MessagePack map per message, its type and version in the field `type`, decoded by one function.

Evolution: `type` is `name/major`. Within a major version fields are only added, each with a default; a reader
ignores what it does not know. A new major is a new struct beside the old one.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from llmos.schemas.errors import Malformed, Oversized, UnknownVersion
from llmos.schemas.limits import RECORD_BYTES

MSGPACK = "application/msgpack"
JSON = "application/json"


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, gc=False):
    """A message on a topic: immutable, written once, its type and version in `type`."""


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A value inside messages."""


M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The MessagePack bytes of `message`."""
    return _encoder.encode(message)


class Codec(msgspec.Struct, frozen=True):
    """Decodes the messages of one topic: `Codec.of(A, B)` reads either and says what is wrong with anything else."""

    types: tuple[Any, ...]
    msgpack: Any
    json: Any

    @staticmethod
    def of(*types: type[Message]) -> Codec:
        union: Any = types[0]
        for other in types[1:]:
            union = union | other
        return Codec(
            types=types,
            msgpack=msgspec.msgpack.Decoder(union),
            json=msgspec.json.Decoder(union),
        )

    def decode(self, data: bytes | None, content_type: str = MSGPACK, limit: int = RECORD_BYTES) -> Any:
        """The message in `data`.

        Raises:
            Oversized: `data` is longer than `limit` bytes.
            UnknownVersion: it is a map of another `type`.
            Malformed: it is not a message at all, or a field is out of its bounds.
        """
        if not data:
            raise Malformed(problem="it is empty")
        if len(data) > limit:
            raise Oversized(size=len(data), limit=limit)
        decoder = self.json if content_type == JSON else self.msgpack
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self._explain(data, content_type, problem) from None

    def _explain(self, data: bytes, content_type: str, problem: Exception) -> Malformed | UnknownVersion:
        peek = msgspec.json.decode if content_type == JSON else msgspec.msgpack.decode
        known = ", ".join(str(t.__struct_config__.tag) for t in self.types)
        try:
            kind = peek(data, type=_Peek).type
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Malformed(problem=without_values(problem)[:500])
        if kind is not None and kind not in known.split(", "):
            # Only what looks like a type is told; anything else that stands there may be somebody's words.
            return UnknownVersion(type=kind[:64] if _TYPE.fullmatch(kind[:64]) else "…", known=known)
        return Malformed(problem=without_values(problem)[:500])


_FOUND = re.compile(r"\A(Invalid (?:enum )?value) .*?(?P<where> - at `[^`]*`(?: in `[^`]*`)?)?\Z", re.DOTALL)
_TYPE = re.compile(r"[A-Za-z0-9._/-]*")


def without_values(problem: Exception) -> str:
    """What is wrong, without the values that were found: it travels in the clear, and they may be somebody's secret."""
    return _FOUND.sub(lambda match: f"{match[1]} '…'{match['where'] or ''}", str(problem))


class _Peek(msgspec.Struct):
    type: str | None = None
