"""Dead letters: the whole record sealed, bounded whatever comes; replays: an operator's word that nobody can make or keep."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto.blobs import open_blob
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.port import Out, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import CONTENTS_BYTES, dead_letter
from llmos.infra.stages.replays import FRESH_SECONDS, replay_header, replay_name, replay_of, without_replay
from llmos.schemas.base import MSGPACK, without_values
from llmos.schemas.dead import DEAD, REPLAY_HEADER, DeadContents, DeadLetter, Replay
from llmos.schemas.errors import Malformed, RecordError
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Origin
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.requests import REQUESTS
from tests.kit.bench import KEYS, NOW, HandClock, configured, context, record

WRONG = Malformed(problem="it is empty")


@pytest.fixture
async def ctx() -> Context:
    return context(HandClock(), configured(), service="ingest")


def letter_of(out: Out) -> DeadLetter:
    """The letter as it is read back."""
    letter = DEAD.decode(out.value)
    assert isinstance(letter, DeadLetter)
    return letter


def contents_of(letter: DeadLetter, keys: Keyring = KEYS) -> DeadContents:
    """What is inside."""
    opened = open_blob(keys, letter.key_id, letter.origin_key, letter.value)
    return msgspec.msgpack.decode(opened, type=DeadContents)


async def test_a_letter_holds_key_value_and_headers_sealed(ctx: Context) -> None:
    """All of the record is inside, none of it outside; reason, origin, stage, attempt and time are readable."""
    found = record(b"secret value", "requests", 1, 7, b"secret key", (("secret-header", b"secret"),))
    out = dead_letter(ctx, found, WRONG)
    assert out.key == b"requests:1:7"
    assert b"secret" not in (out.value or b"")
    letter = letter_of(out)
    assert (letter.origin, letter.stage, letter.error.code) == (Origin("requests", 1, 7), "ingest", "malformed")
    assert (letter.attempt, letter.size, letter.cut, letter.at, letter.taken_at) == (0, 12, False, NOW, NOW)
    assert contents_of(letter) == DeadContents(b"secret key", b"secret value", [("secret-header", b"secret")])


@pytest.mark.parametrize(("topic", "attempt"), [("work.node-0.cpu0", 3), ("partials", 3), ("requests", 0)])
async def test_a_letter_of_a_task_tells_the_attempt(ctx: Context, topic: str, attempt: int) -> None:
    """As far as the record can be read: what else is wrong with it does not matter."""
    value = msgspec.msgpack.encode({"type": "work/1", "task": [0, 1, 0, epoch_of(7, 3)], "head": "rubbish"})
    assert letter_of(dead_letter(ctx, record(value, topic), WRONG)).attempt == attempt
    assert letter_of(dead_letter(ctx, record(b"\xc1", topic), WRONG)).attempt == 0


async def test_the_public_half_seals_and_cannot_open(ctx: Context) -> None:
    """A stage that holds the public half alone makes letters, which only operators open."""
    public = Keyring([msgspec.structs.replace(KEYS.active("dead"), key=b"")])
    letter = letter_of(dead_letter(dataclasses.replace(ctx, keyring=public), record(b"value"), WRONG))
    assert not public.has(letter.key_id)
    assert contents_of(letter).value == b"value"


LARGE = (
    record(b"v" * RECORD_BYTES),
    record(b"v" * CONTENTS_BYTES),
    record(b"v", headers=tuple((f"h{i}", b"x" * 8192) for i in range(1100))),
    record(b"v" * RECORD_BYTES, key=b"k" * RECORD_BYTES, headers=(("h", b"x" * RECORD_BYTES),)),
    record(b"v" * (RECORD_BYTES - 100), headers=(("a", b"1"),) * 500_000),
    record(None, key=None, headers=(("x" * RECORD_BYTES, b""),)),
)


@pytest.mark.parametrize("large", LARGE)
async def test_what_is_too_large_is_cut_so_that_the_letter_fits(ctx: Context, large: Record) -> None:
    """A letter is always a record; a cut one says so, and how long the value was."""
    out = dead_letter(ctx, large, WRONG)
    assert len(out.value or b"") <= RECORD_BYTES
    letter = letter_of(out)
    found = contents_of(letter)
    assert letter.cut
    assert letter.size == len(large.value or b"")
    assert (large.value or b"").startswith(found.value)
    assert list(large.headers[: len(found.headers)]) == found.headers


async def test_what_just_fits_is_whole(ctx: Context) -> None:
    """An 8 MiB record less the room for the letter is kept to the last byte."""
    found = record(b"v" * (CONTENTS_BYTES - 1000), headers=(("content-type", b"x"),))
    letter = letter_of(dead_letter(ctx, found, WRONG))
    assert not letter.cut
    assert contents_of(letter).value == found.value


@given(
    st.binary(max_size=30),
    st.none() | st.binary(max_size=30),
    st.lists(st.tuples(st.text(st.characters(), max_size=5), st.binary(max_size=5)), max_size=5).map(tuple),
)
async def test_any_record_becomes_a_letter(
    value: bytes, key: bytes | None, headers: tuple[tuple[str, bytes], ...]
) -> None:
    """Also one whose header names are no text."""
    ctx = context(HandClock(), configured())
    found = contents_of(letter_of(dead_letter(ctx, record(value, key=key, headers=headers), WRONG)))
    assert (found.key, found.value, len(found.headers)) == (key, value, len(headers))


# --- replays ---

LETTER = DeadLetter(origin=Origin("requests", 1, 7), stage="ingest", error={}, at=NOW, replays=2)  # type: ignore[arg-type]


def replayed(value: bytes = b"value", at: float = NOW, **changes: object) -> Record:
    """The record of `LETTER`, put back."""
    name, word = replay_header(KEYS, LETTER, value, NOW - 5000.0, NOW)
    changed = msgspec.structs.replace(msgspec.msgpack.decode(word, type=Replay), **changes)
    return record(value, offset=9, headers=(("a", b"1"), (name, msgspec.msgpack.encode(changed))), at=at)


def test_an_operators_word_is_believed() -> None:
    """It tells which record it was first, when the log took that, and how often it was put back."""
    replay = replay_of(KEYS, replayed())
    assert replay is not None
    assert (replay.first, replay.timestamp, replay.replays) == (LETTER.origin, NOW - 5000.0, 3)
    assert replay_name(replay) == "requests:1:7#3"


@pytest.mark.parametrize(
    "found",
    [
        record(b"value"),
        record(None, headers=replayed().headers),
        record(b"another value", headers=replayed().headers),
        record(b"value", headers=((REPLAY_HEADER, b""),)),
        record(b"value", headers=((REPLAY_HEADER, b"\xc1"),)),
        record(b"value", headers=((REPLAY_HEADER, b"\x91" * 1000),)),
        record(b"value", headers=((REPLAY_HEADER, b"\x91" * 2_000_000),)),
        record(b"value", headers=((REPLAY_HEADER, b"forged"), *replayed().headers)),
        replayed(replays=2),
        replayed(timestamp=NOW),
        replayed(first=Origin("requests", 1, 8)),
        replayed(at=NOW + FRESH_SECONDS + 1),
        replayed(at=NOW - FRESH_SECONDS - 1),
        replayed(mac=b""),
        replayed(mac=b"m" * 32),
    ],
)
def test_any_other_word_is_none(found: Record) -> None:
    """Rubbish, a changed field, another value, a copy sent much later: as if there were no header."""
    assert replay_of(KEYS, found) is None


def test_without_the_system_key_no_word_is_believed() -> None:
    """A stage that cannot check takes a replay for any other record."""
    assert replay_of(Keyring([KEYS.active("dead")]), replayed()) is None


def test_an_earlier_word_is_taken_off() -> None:
    """A record that is put back again carries the new word alone."""
    assert without_replay(replayed().headers) == [("a", b"1")]


async def test_a_replay_that_dies_again_is_marked(ctx: Context) -> None:
    """Its letter names the record that died first, how often it was put back, and keeps the first one's time."""
    letter = letter_of(dead_letter(ctx, replayed(), WRONG))
    assert (letter.replays, letter.first, letter.taken_at) == (3, LETTER.origin, NOW - 5000.0)
    assert letter.origin == Origin("requests", 0, 9)


async def test_a_forged_word_marks_nothing(ctx: Context) -> None:
    """Nobody but an operator makes a record look replayed."""
    letter = letter_of(dead_letter(ctx, replayed(replays=50), WRONG))
    assert (letter.replays, letter.first, letter.taken_at) == (0, None, NOW)


# --- what the reason says ---


@pytest.mark.parametrize(
    "canary", ["kanarie!", "it's a 'kanarie' - at `$.x`", 'say "kanarie"', "kanarie\n'", "kan`arie"]
)
@pytest.mark.parametrize("field", ["events", "type", "request_id", "kind", "reply_to", "timeout", "priority", "mac"])
def test_a_reason_quotes_no_value(canary: str, field: str) -> None:
    """Reasons travel in the clear: they say where and what was expected, not what was found."""
    plain = {"type": "request/1", "request_id": "r", "tenant": "demo", "kind": "echo"}
    wrong = plain | {field: canary * (1 if field == "events" else 100)}
    with pytest.raises(RecordError) as caught:
        REQUESTS.decode(msgspec.msgpack.encode(wrong), MSGPACK)
    assert "arie" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_found_value_is_told(value: str) -> None:
    """Whatever quotes and back-quotes it has."""
    said = without_values(Exception(f"Invalid enum value {value!r} - at `$.events`"))
    assert said == "Invalid enum value '…' - at `$.events`"
