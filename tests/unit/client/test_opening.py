"""Answers and events as they are opened: what is believed and what is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.client import CannotOpen, EchoInput, Submission
from llmos.client.opening import EPHEMERAL_KEYS, AskerKeys, Opening
from llmos.client.outputs import outputs
from llmos.infra.crypto.credentials import ReplyKey
from llmos.infra.crypto.hpke import key_id_of
from llmos.schemas.errors import Malformed
from llmos.schemas.job import ErrorInfo, Item, Origin
from llmos.schemas.results import Answer
from llmos.schemas.tasks import EchoOutput
from tests.kit.sealing_worker import SECRET, Worker

KEY = ReplyKey.fresh()
WORKER = Worker(KEY.public)
FAILED = ErrorInfo(code="engine_failed", message="no")


def opening(secret: bytes = SECRET, *keys: ReplyKey) -> Opening:
    return Opening("demo", [secret], list(keys) or [KEY])


def answer(request_id: str = "r", epochs: tuple[int, ...] = (7,), **fields: Any) -> Answer:
    values: dict[str, Any] = {
        "job_id": b"j" * 16, "tenant": "demo", "request_id": request_id, "origin": Origin("requests", 0, 1),
        "partition": 0, "s": 3, "status": "completed", "kind": "echo", "epochs": list(epochs),
    }  # fmt: skip
    return Answer(**(values | fields))


def sealed(to: Answer, *texts: Any, part: int = 0, worker: Worker = WORKER) -> Answer:
    said = [text if isinstance(text, ErrorInfo) else EchoOutput(text=text) for text in texts]
    return msgspec.structs.replace(to, items=worker.items(to, *said, part=part))


def test_an_answer_is_opened() -> None:
    """Its items are as those of a clear one, an item that failed stays its error."""
    opened = opening().answer(sealed(answer(), "a", FAILED, "b"), sealed=True)
    assert outputs(opened) == [EchoOutput(text="a"), FAILED, EchoOutput(text="b")]
    assert not any(item.sealed for item in opened.items)


def test_each_part_has_the_epoch_of_its_own_attempt() -> None:
    """Parts of a list may have been done by different attempts."""
    bare = answer(epochs=(7, 9))
    (first,) = WORKER.items(bare, EchoOutput(text="a"), of=2)
    (second,) = WORKER.items(bare, EchoOutput(text="b"), part=1, first=1, of=2)
    opened = opening().answer(msgspec.structs.replace(bare, items=[second, first]))
    assert outputs(opened) == [EchoOutput(text="a"), EchoOutput(text="b")]
    swapped = msgspec.structs.replace(bare, items=[first, second], epochs=[9, 7])
    with pytest.raises(CannotOpen):
        opening().answer(swapped)


def test_a_sealed_output_is_never_taken_for_an_output() -> None:
    """Who reads a sealed answer without opening it hears so."""
    with pytest.raises(Malformed, match="sealed"):
        outputs(sealed(answer(), "a"))


def test_a_missing_key_is_named() -> None:
    """The id of the key that would be needed is in the message; the answer is at hand as it came."""
    found = sealed(answer(), "a")
    with pytest.raises(CannotOpen, match=key_id_of(KEY.public)) as caught:
        opening(SECRET, ReplyKey.fresh()).answer(found)
    assert caught.value.answer == found


def test_older_keys_of_the_credentials_still_open() -> None:
    """After a rotation of the reply key."""
    assert opening(SECRET, ReplyKey.fresh(), KEY).answer(sealed(answer(), "a")).items


def test_every_changed_byte_is_found() -> None:
    """Of the envelope, at every place; with one error, and nothing else is raised."""
    found = sealed(answer(), "a")
    envelope = found.items[0].output
    for place in range(len(envelope)):
        damaged = envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :]
        items = [msgspec.structs.replace(found.items[0], output=damaged)]
        with pytest.raises(CannotOpen):
            opening().answer(msgspec.structs.replace(found, items=items))


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": b"k" * 16}, {"request_id": "other"}, {"kind": "embed"}, {"epochs": [8]}, {"epochs": []},
        {"tenant": "acme"},
    ],
)  # fmt: skip
def test_an_output_opens_in_its_own_answer_only(change: dict[str, Any]) -> None:
    """Items that were moved to another answer, or to another attempt, are found."""
    with pytest.raises(CannotOpen):
        opening().answer(msgspec.structs.replace(sealed(answer(), "a"), **change))


def test_items_do_not_change_places() -> None:
    """Neither within an answer nor between two."""
    one, two = sealed(answer(), "a", "b"), sealed(answer("other"), "c", "d")
    swapped = [msgspec.structs.replace(item, output_index=1 - item.output_index) for item in one.items]
    for items in (swapped, [one.items[0], two.items[1]]):
        with pytest.raises(CannotOpen):
            opening().answer(msgspec.structs.replace(one, items=items))


@pytest.mark.parametrize("kept", [[0, 1], [1, 2], [0, 2], [0, 0, 1, 2], [0, 1, 1], [0, 0, 0], []])
def test_no_output_is_left_out_or_doubled(kept: list[int]) -> None:
    """They are 0 to n - 1, each once, and n is what the job has: who may write to `results` takes none away."""
    whole = sealed(answer(), "a", FAILED, "b")
    assert len(outputs(opening().answer(msgspec.structs.replace(whole, items=whole.items[::-1])))) == 3
    with pytest.raises(CannotOpen):
        opening().answer(msgspec.structs.replace(whole, items=[whole.items[i] for i in kept]))


@pytest.mark.parametrize("indices", [[1], [0, 2], [0, 0], [1, 2]])
def test_clear_outputs_are_all_there_too(indices: list[int]) -> None:
    """A client without credentials at least counts."""
    clear = msgspec.msgpack.encode(EchoOutput(text="a"))
    found = answer(items=[Item(output_index=index, output=clear) for index in indices])
    with pytest.raises(CannotOpen, match="each of them once"):
        opening(b"").answer(found)


def test_what_ended_without_outputs_has_none() -> None:
    """Refused, expired, cancelled, failed as a whole: there is nothing to count."""
    for status in ("refused", "expired", "cancelled", "failed"):
        assert opening().answer(answer(status=status, error=FAILED)).items == []


def test_who_can_only_seal_is_not_believed() -> None:
    """Anybody can seal to a public key; only worker and tenant can make the digest, and it covers errors, too."""
    forger = Worker(KEY.public, secret=b"guessed" * 5)
    for forged in (sealed(answer(), "a", worker=forger), sealed(answer(), FAILED, worker=forger)):
        with pytest.raises(CannotOpen, match="digest"):
            opening().answer(forged)
    assert outputs(opening(b"").answer(sealed(answer(), "a", worker=forger))) == [EchoOutput(text="a")]


def test_a_clear_output_is_not_believed_where_the_request_was_sealed() -> None:
    """Nor one without a digest by who has the secret, whatever the request was."""
    clear = msgspec.msgpack.encode(EchoInput(text="a"))
    found = answer(items=[Item(output_index=0, output=clear)])
    with pytest.raises(CannotOpen, match="clear"):
        opening().answer(found, sealed=True)
    with pytest.raises(CannotOpen, match="digest"):
        opening().answer(found)
    assert outputs(opening(b"").answer(found)) == [EchoOutput(text="a")]


def test_a_failure_needs_no_digest_and_an_output_does() -> None:
    """An item that the scheduler ended is its error; without one, or with an output, it is not believed."""
    ended = msgspec.structs.replace(answer(), status="failed", items=[Item(output_index=0, error=FAILED)])
    assert outputs(opening().answer(ended, sealed=True)) == [FAILED]
    (true,) = sealed(answer(), "a").items
    for item in (Item(output_index=0), msgspec.structs.replace(true, digest=b""), Item(output_index=0, output=b"x")):
        with pytest.raises(CannotOpen):
            opening().answer(msgspec.structs.replace(answer(), items=[item]))


def test_answers_without_items_need_no_key() -> None:
    """Refusals and pointers."""
    assert opening().answer(answer(status="refused"), sealed=True) == answer(status="refused")


SUBMISSION = Submission(
    job_id=b"j" * 16, request_id="r", origin=Origin("requests", 0, 1), tenant="demo", partition=0, sealed=True
)


def test_an_event_is_opened() -> None:
    """All that tells of the output is inside."""
    event = WORKER.event(SUBMISSION, 2, 1, "abc", first_token=4, tokens=3, finish="stop", resume_at=2)
    assert (event.text, event.first_token, event.finish) == ("", 0, "")
    opened = opening().event(event, sealed=True)
    assert opened is not None
    assert (opened.text, opened.first_token, opened.tokens) == ("abc", 4, 3)
    assert (opened.finish, opened.resume_at, opened.sealed) == ("stop", 2, b"")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3}, {"sequence": 2}, {"output_index": 1}, {"part": 1}, {"request_id": "q"}, {"job_id": b"k" * 16},
        {"sealed": b"LLE1"}, {"sealed": b""},
    ],
)  # fmt: skip
def test_an_event_that_was_moved_or_damaged_is_counted_and_left_out(change: dict[str, Any]) -> None:
    """An old attempt's event cannot be shown as a newer one's, nor a clear one in its place."""
    found = opening()
    event = msgspec.structs.replace(WORKER.event(SUBMISSION, 2, 1, "abc"), **change)
    assert found.event(event, sealed=True) is None
    assert found.refused_events == 1


def test_clear_events_pass_where_the_request_was_clear() -> None:
    """They are what they were."""
    event = msgspec.structs.replace(WORKER.event(SUBMISSION, 2, 1, ""), sealed=b"", text="abc")
    assert opening().event(event) == event


def test_ephemeral_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are kept, beside those of the credentials."""
    assert EPHEMERAL_KEYS >= 10_000
    monkeypatch.setattr("llmos.client.opening.EPHEMERAL_KEYS", 2)
    lasting, *ephemeral = (ReplyKey.fresh() for _ in range(4))
    keys = AskerKeys([lasting])
    for key in ephemeral:
        keys.add(key, key.public)
    held = [keys.has(key_id_of(key.public)) for key in (lasting, *ephemeral)]
    assert held == [True, False, True, True]


def test_answers_under_a_secret_from_before_a_rotation_still_prove_themselves() -> None:
    """What was signed with the old secret is answered under it; a secret that was never the tenant's proves nothing."""
    rotated = Opening("demo", [b"n" * 32, SECRET], [KEY])
    assert outputs(rotated.answer(sealed(answer(), "a"))) == [EchoOutput(text="a")]
    with pytest.raises(CannotOpen, match="digest"):
        Opening("demo", [b"n" * 32, b"o" * 32], [KEY]).answer(sealed(answer(), "a"))
