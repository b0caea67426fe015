"""Outputs and events sealed for the asker: no key and nonce twice, nothing opens elsewhere, digests of what was inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto.channels import EventBody, event_bound, item_bound, item_digest
from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import open_envelope, parse
from llmos.infra.crypto.kept_secrets import RENEW_SECONDS, SECRETS, KeptSecrets
from llmos.schemas.errors import EnvelopeRejected, TooLong
from llmos.schemas.job import Item
from llmos.schemas.partials import Outcome
from llmos.schemas.stream import Tokens
from llmos.services.worker.held import HeldTask, HeldTasks
from llmos.services.worker.runners.events import Event, ItemEnded, Produced, TaskEnded
from llmos.services.worker.sealing import OutputSeals
from llmos.services.worker.settling import Settled, Settler
from tests.kit.bench import NOW
from tests.unit.services.worker.making import INCARNATION, held_task

KEY = ReplyKey.fresh()
HYBRID = ReplyKey.fresh("mlkem768-x25519")
DIGEST_KEY = b"d" * 32
LOW_ORDER = b"\x01" + bytes(32)
"""A point of X25519 to which nothing can be sealed."""


def asked(s: int = 0, key: ReplyKey | None = KEY, reply_key: bytes | None = None, **fields: Any) -> HeldTask:
    """A task whose asker has a reply key."""
    public = reply_key if reply_key is not None else key.public if key else b""
    task = held_task(s, reply_key=public, **({"events": "tokens"} | fields))
    task.digest_key = DIGEST_KEY
    return task


class Life:
    """A worker's process: what it settles, with secrets of its own."""

    def __init__(self) -> None:
        self.held = HeldTasks(60.0)
        self._settler = Settler(self.held, "node-0.cpu0", INCARNATION)

    def settle(self, task: HeldTask, *events: Event, at: float = NOW) -> Settled:
        self.held.take(task)
        return self._settler.settle(events, at)

    def run(
        self, task: HeldTask, outputs: Sequence[bytes], tokens: int, at: float = NOW
    ) -> tuple[Outcome, list[Tokens]]:
        """The attempt from its first event to its outcome."""
        name = task.name
        said = [Produced(name, i, f"t{k}", 1, k, "") for i in range(len(outputs)) for k in range(tokens)]
        items = [ItemEnded(name, i, output, None, 1, tokens) for i, output in enumerate(outputs)]
        settled = self.settle(task, *said, *items, TaskEnded(name, 0.1), at=at)
        return settled.outcomes[0], [message for _, _, message in settled.stream if isinstance(message, Tokens)]


def opened(item: Item, outcome: Outcome, key: ReplyKey = KEY, other: dict[str, Any] | None = None) -> bytes:
    """What the asker reads in an item; `other`: what it takes for its place instead of what is true."""
    bound = item_bound(outcome.head, item.part, outcome.task.epoch, item.output_index)
    return open_envelope(ReplyKeys([key]), msgspec.structs.replace(bound, **(other or {})), item.output)


def read(event: Tokens, key: ReplyKey = KEY, **other: Any) -> EventBody:
    """What the asker reads in a token event."""
    event = msgspec.structs.replace(event, **other)
    return msgspec.msgpack.decode(
        open_envelope(ReplyKeys([key]), event_bound("demo", event), event.sealed), type=EventBody
    )


@pytest.mark.parametrize("key", [KEY, HYBRID], ids=["x25519", "hybrid"])
def test_outputs_are_sealed_for_the_asker(key: ReplyKey) -> None:
    """It opens them with the key it named; what travels shows neither output nor text, and the key travels no further."""
    task = asked(key=key, text=["a", "b"], part=1, epoch=7)
    outcome, events = Life().run(task, [b"one secret", b"another"], 2)
    assert [opened(item, outcome, key) for item in outcome.items] == [b"one secret", b"another"]
    assert [(item.sealed, item.part, item.output_index) for item in outcome.items] == [(True, 1, 2), (True, 1, 3)]
    assert [(e.output_index, e.sequence, read(e, key).text, read(e, key).first_token) for e in events] == [
        (2, 0, "t0", 0), (2, 1, "t1", 1), (3, 0, "t0", 0), (3, 1, "t1", 1),
    ]  # fmt: skip
    assert {(e.text, e.first_token, e.tokens, e.finish, e.part) for e in events} == {("", 0, 1, "", 1)}
    assert outcome.head == msgspec.structs.replace(task.work.head, reply_key=b"")


def test_digests_are_of_the_clear_output() -> None:
    """The same whether it is sealed or not, and of an item that failed that of its error's code."""
    for key in (KEY, None):
        task = asked(key=key, text=["a", "b"])
        error = TooLong(tokens=9, model="m", limit=8)
        settled = Life().settle(
            task, ItemEnded(task.name, 0, b"o", None, 1, 1), ItemEnded(task.name, 1, b"", error, 1, 0),
            TaskEnded(task.name, 0.0),
        )  # fmt: skip
        good, bad = settled.outcomes[0].items
        assert good.digest == item_digest(DIGEST_KEY, 0, 2, b"o", "")
        assert bad.digest == item_digest(DIGEST_KEY, 1, 2, b"", "too_long")
        assert (good.sealed, bad.sealed, bad.output) == (key is not None, False, b"")


def test_without_a_reply_key_all_is_clear() -> None:
    """As it always was, but for the digest."""
    outcome, (event,) = Life().run(asked(key=None), [b"o"], 1)
    assert (outcome.items[0].output, outcome.items[0].sealed) == (b"o", False)
    assert (event.text, event.sealed) == ("t0", b"")


def test_a_part_that_was_never_open_has_no_digest() -> None:
    """There is no key to make one with."""
    task = asked(key=None)
    task.digest_key = b""
    outcome, _ = Life().run(task, [b"o"], 0)
    assert outcome.items[0].digest == b""


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "acme"},
        {"job_id": bytes(16)},
        {"request_id": "another"},
        {"part": 1},
        {"epoch": 6},
        {"epoch": 8},
        {"item": 1},
        {"kind": "embed"},
        {"channel": "event"},
        {"sequence": 1},
        {"schema": "echo-output/2"},
    ],
)
def test_an_output_opens_in_its_own_place_only(other: dict[str, Any]) -> None:
    """Not as another tenant's, job's, part's, attempt's or item's."""
    outcome, _ = Life().run(asked(epoch=7), [b"o"], 0)
    assert opened(outcome.items[0], outcome) == b"o"
    with pytest.raises(EnvelopeRejected):
        opened(outcome.items[0], outcome, other=other)


@pytest.mark.parametrize(
    "other",
    [{"epoch": 8}, {"epoch": 6}, {"sequence": 1}, {"output_index": 1}, {"part": 1}, {"request_id": "r"},
     {"job_id": bytes(16)}],
)  # fmt: skip
def test_an_event_opens_in_its_own_place_only(other: dict[str, Any]) -> None:
    """Those of an older attempt do not pass for those of a newer one, nor one for the next."""
    _, (event,) = Life().run(asked(epoch=7), [b"o"], 1)
    assert read(event).text == "t0"
    with pytest.raises(EnvelopeRejected):
        read(event, **other)


def test_nobody_else_opens_them() -> None:
    """Another reply key, of the same tenant even, does not."""
    outcome, _ = Life().run(asked(), [b"o"], 0)
    with pytest.raises(EnvelopeRejected):
        opened(outcome.items[0], outcome, ReplyKey.fresh())


Attempt = tuple[int, int, int, int, int, float, bool]
"""s, part, epoch, outputs, events of each, seconds since the one before, the process starts anew before it."""
ATTEMPTS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3),
        st.sampled_from([0.0, 30.0, 61.0, -10.0]), st.booleans(),
    ),
    min_size=1, max_size=8,
)  # fmt: skip
TASKS = {(s, part): asked(s, text=["a", "b", "c"], part=part) for s in range(3) for part in range(2)}


@given(ATTEMPTS)
def test_no_key_and_nonce_are_used_twice(attempts: list[Attempt]) -> None:
    """Over attempts of all jobs, later epochs and the same epoch once more, n outputs, restarts, clocks that are set back:
    of all envelopes no two share commitment (which is one per data key) and nonce; of an attempt none repeats."""
    used: set[tuple[bytes, bytes]] = set()
    salts: set[bytes] = set()
    life, now = Life(), NOW
    for s, part, epoch, outputs, tokens, seconds, restarts in attempts:
        now += seconds
        life = Life() if restarts else life
        made = TASKS[s, part].work
        work = msgspec.structs.replace(made, task=msgspec.structs.replace(made.task, epoch=epoch))
        task = HeldTask(work, now, digest_key=DIGEST_KEY)
        outcome, events = life.run(task, [b"o"] * outputs, tokens, now)
        envelopes = [parse(sealed) for sealed in (*(e.sealed for e in events), *(i.output for i in outcome.items))]
        pairs = {(envelope.commitment, envelope.nonce) for envelope in envelopes}
        assert len(pairs) == len(envelopes)
        assert not pairs & used
        used |= pairs
        (salt,) = {envelope.salt for envelope in envelopes}
        assert salt not in salts
        salts.add(salt)


def test_one_secret_serves_a_minute() -> None:
    """Attempts for the same asker share what was wrapped; after a minute, or for another asker, it is wrapped anew."""
    life = Life()

    def wrapped(task: HeldTask, at: float = NOW) -> tuple[tuple[str, bytes], ...]:
        return parse(life.run(task, [b"o"], 0, at)[0].items[0].output).wrapped

    first = wrapped(asked(0))
    assert wrapped(asked(1), NOW + RENEW_SECONDS - 1) == first
    assert wrapped(asked(2, ReplyKey.fresh())) != first
    assert wrapped(asked(3, tenant="acme")) != first
    later = wrapped(asked(4), NOW + RENEW_SECONDS)
    assert later != first
    assert wrapped(asked(5), NOW) != later, "a clock that was set back does not prolong it"


def test_so_many_secrets_are_kept_at_most() -> None:
    """A client with a fresh reply key for every request costs time, and no memory; those used last stay."""
    seals = OutputSeals()
    seals.secrets = KeptSecrets(most=2)
    keys = [ReplyKey.fresh() for _ in range(3)]

    def wrapped(key: ReplyKey) -> tuple[tuple[str, bytes], ...]:
        task = asked(key=key)
        return parse(seals.item(task, ItemEnded(task.name, 0, b"o", None, 0, 0), NOW).output).wrapped

    first, _ = wrapped(keys[0]), wrapped(keys[1])
    assert wrapped(keys[0]) == first
    wrapped(keys[2])  # the second one goes
    assert wrapped(keys[0]) == first
    assert OutputSeals().secrets.most == SECRETS


@pytest.mark.parametrize("reply_key", [LOW_ORDER, b"\x01", b"\x09" + bytes(32), b"\x02" + bytes(1216)])
def test_an_unusable_reply_key_fails_the_item(reply_key: bytes) -> None:
    """Whatever an earlier stage let pass: the item says what is wrong, nothing travels in the clear, the worker goes on."""
    life = Life()
    outcome, events = life.run(asked(reply_key=reply_key), [b"secret"], 2)
    (item,) = outcome.items
    assert item.error is not None
    assert (item.error.code, item.output, item.sealed, events) == ("invalid_request", b"", False, [])
    assert "reply_key" in item.error.message
    assert item.digest == item_digest(DIGEST_KEY, 0, 1, b"", "invalid_request")
    whole, _ = life.run(asked(1), [b"o"], 0)
    assert opened(whole.items[0], whole) == b"o"
