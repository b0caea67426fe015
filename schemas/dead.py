"""`dead`: records that no stage could use, with the reason and where they came from; for operators."""

from __future__ import annotations

import hashlib

import msgspec

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Origin
from llmos.schemas.limits import Code, Count, Digest, Sealed, Seconds


class DeadLetter(Message, frozen=True, kw_only=True, tag="dead_letter/1"):
    """A record that could not be used. At least once: tell repeats by `origin`."""

    origin: Origin
    stage: Code
    error: ErrorInfo
    at: Seconds
    key: bytes = b""
    """Not written any more, nor is `headers`: they are sealed with the value."""
    value: Sealed = b""
    """A `DeadContents`, sealed for operators under `key_id`, in the context `origin_key`."""
    key_id: str = ""
    size: Count = 0
    """Bytes of the record's value; more than are in the contents where it had to be cut."""
    cut: bool = False
    """The contents are not the whole record (key, value or headers were too large): it cannot be put back."""
    taken_at: Seconds = 0.0
    """When the log took the record; of a replay, the first one."""
    headers: list[tuple[str, bytes]] = []
    attempt: Count = 0
    """Of a task: which attempt it was."""
    replays: Count = 0
    """How many times an operator had it replayed before it died here."""
    first: Origin | None = None
    """Of a replay: the origin of the record that died first."""

    @property
    def origin_key(self) -> bytes:
        """Its key on the topic, and the context in which it is sealed."""
        return origin_key(self.origin)


class DeadContents(Value, frozen=True, array_like=True, kw_only=False):
    """What is inside a dead letter: the record as it was."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class DeadReplayed(Message, frozen=True, kw_only=True, tag="dead_replayed/1"):
    """An operator put the dead letter of `origin` back where it came from, at `to`."""

    origin: Origin
    to: Origin
    at: Seconds


REPLAY_HEADER = "llmos-replay"
"""Header of a record that an operator put back: a `Replay`."""


class Replay(Value, frozen=True, array_like=True, kw_only=False):
    """An operator's word that a record is no forger's copy: it was taken before, at `first`."""

    first: Origin
    timestamp: Seconds
    """When the log took the first one."""
    replays: Count
    at: Seconds
    """When the operator put it back: the word holds for a record that the log takes soon after."""
    mac: Digest = b""
    """Under the key `system`, over `signed_replay`."""


def origin_key(origin: Origin) -> bytes:
    """An origin as the key of a record on `dead`."""
    return f"{origin.topic}:{origin.partition}:{origin.offset}".encode()


def signed_replay(replay: Replay, value: bytes) -> bytes:
    """What the MAC of a replay covers."""
    digest = hashlib.sha256(value).digest()
    return msgspec.msgpack.encode(
        [
            "llmos-replay-1",
            replay.first.topic,
            replay.first.partition,
            replay.first.offset,
            replay.timestamp,
            replay.replays,
            replay.at,
            digest,
        ]
    )


DEAD = Codec.of(DeadLetter, DeadReplayed)
