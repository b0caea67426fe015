"""Replays: an operator's signed word, in a header, that a record was on the log before and is put back, not forged anew.

A word can be copied with its record by anybody who may write to the topic. So it names the time at which it was given, holds
for as long as requests are fresh (`FRESH_SECONDS`), and names what a copy has in common with it (`replay_name`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.log.port import Record
from llmos.schemas.dead import REPLAY_HEADER, DeadLetter, Replay, origin_key, signed_replay

FRESH_SECONDS = 900.0
"""How far the log's time of a replayed record may lie from the operator's time of putting it back."""
_WORD_BYTES = 1024

_decoder = msgspec.msgpack.Decoder(Replay)


def replay_of(keys: SystemKeys, record: Record) -> Replay | None:
    """The word that comes with a record; None where there is none, or none that the system's key made for it lately.

    What is wrong with a header is nobody's concern: the record is then one like any other.
    """
    if record.value is None:
        return None
    word = next((content for name, content in record.headers if name == REPLAY_HEADER), b"")
    if not word or len(word) > _WORD_BYTES:
        return None
    try:
        replay = _decoder.decode(word)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if abs(record.timestamp - replay.at) > FRESH_SECONDS:
        return None
    return replay if keys.check_mac("system", signed_replay(replay, record.value), replay.mac) else None


def replay_header(
    keys: SystemKeys, letter: DeadLetter, value: bytes, timestamp: float, now: float
) -> tuple[str, bytes]:
    """The header with which the record of a dead letter is put back.

    `value`: the record's. `timestamp`: when the log took the first record of all (Unix seconds). `now`: the present time.

    Raises:
        BadSetting: the keyring has no active key `system`.
    """
    replay = Replay(letter.first or letter.origin, timestamp, letter.replays + 1, now)
    mac = keys.mac("system", signed_replay(replay, value))
    return REPLAY_HEADER, msgspec.msgpack.encode(msgspec.structs.replace(replay, mac=mac))


def replay_name(replay: Replay) -> str:
    """Names one replay of one record: it may be taken once, at one origin."""
    return f"{origin_key(replay.first).decode()}#{replay.replays}"


def without_replay(headers: Iterable[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """The headers without an earlier word."""
    return [(name, content) for name, content in headers if name != REPLAY_HEADER]
