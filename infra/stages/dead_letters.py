"""Makes dead letters: what a stage could not use, with its reason and origin, sealed for operators.

Whatever comes, the letter fits a record: what is too large is cut, and the letter says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.infra.crypto.blobs import seal_blob
from llmos.infra.log.port import Out, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.replays import replay_of
from llmos.infra.telemetry.metrics import DEAD_LETTERS
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.dead import DeadContents, DeadLetter, origin_key
from llmos.schemas.errors import LlmosError
from llmos.schemas.ids import attempt_of
from llmos.schemas.job import Origin, Task, error_info
from llmos.schemas.limits import RECORD_BYTES

CONTENTS_BYTES = RECORD_BYTES - 256 * 1024
"""Room for a record inside its letter; the rest is for what sealing and the letter add."""
KEY_BYTES = 64 * 1024
"""Room for the key of a record that is too large as a whole; the same for its headers."""
_FRAME_BYTES = 16
"""What MessagePack adds to a key, a header or a value, at most."""


class _Named(msgspec.Struct):
    """What names the attempt in a message of a task, of work or outcome alike."""

    task: Task


_named = msgspec.msgpack.Decoder(_Named)


def dead_letter(ctx: Context, record: Record, error: LlmosError) -> Out:
    """The dead letter of `record`, keyed by its origin.

    The public half of the key `dead` is enough. `error` travels in the clear: its words quote no payload.
    """
    origin = Origin(record.place.topic, record.place.partition, record.offset)
    name = origin_key(origin)
    contents, cut = bounded(record)
    replay = replay_of(ctx.keyring, record)
    DEAD_LETTERS.labels(ctx.service, error.code).inc()
    key_id, sealed = seal_blob(ctx.keyring, name, msgspec.msgpack.encode(contents))
    letter = DeadLetter(
        origin=origin,
        stage=ctx.service,
        error=error_info(error),
        at=ctx.clock.now(),
        value=sealed,
        key_id=key_id,
        size=len(record.value or b""),
        cut=cut,
        attempt=_attempt(record),
        taken_at=max(replay.timestamp if replay else record.timestamp, 0.0),
        replays=replay.replays if replay else 0,
        first=replay.first if replay else None,
    )
    return Out(name, encode(letter))


def _attempt(record: Record) -> int:
    """Which attempt a record of a task belongs to, as far as it can be read; else 0."""
    topic = record.place.topic
    if topic != topics.PARTIALS and topics.device_of(topic) is None:
        return 0
    try:
        return attempt_of(_named.decode(record.value or b"").task.epoch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def bounded(record: Record) -> tuple[DeadContents, bool]:
    """What of a record is kept, and whether that is less than all of it.

    A record that does not fit as a whole keeps the beginning of its key, its first headers, and then as much of its value
    as there is room for.
    """
    key, value = record.key, record.value or b""
    # A name that is no text (half of a surrogate pair) could not be written.
    headers = [(name.encode(errors="replace").decode(), content) for name, content in record.headers]
    if _size(key, value, headers) <= CONTENTS_BYTES:
        return DeadContents(key, value, headers), False
    key = None if key is None else key[:KEY_BYTES]
    headers = _first(headers, KEY_BYTES)
    return DeadContents(key, value[: CONTENTS_BYTES - _size(key, b"", headers)], headers), True


def _first(headers: Sequence[tuple[str, bytes]], room: int) -> list[tuple[str, bytes]]:
    """The first headers, as many as fit."""
    for count, header in enumerate(headers):
        room -= _size_of(header)
        if room < 0:
            return list(headers[:count])
    return list(headers)


def _size(key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    """Bytes in MessagePack, at most."""
    return 3 * _FRAME_BYTES + len(key or b"") + len(value) + sum(map(_size_of, headers))


def _size_of(header: tuple[str, bytes]) -> int:
    name, content = header
    return 2 * _FRAME_BYTES + len(name.encode()) + len(content)
