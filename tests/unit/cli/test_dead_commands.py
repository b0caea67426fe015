"""`llmos dead`: letters are listed, opened and put back; what was put back is answered, or dies again and says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli.app import app
from llmos.cli.dead import UNOPENED
from llmos.cli.session import Session
from llmos.infra.crypto.keyfile import save_keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place, Record
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.replays import replay_of
from llmos.schemas.dead import DEAD, REPLAY_HEADER, DeadReplayed
from llmos.schemas.errors import LlmosError, Malformed, UnknownTenant
from tests.kit.bench import KEYS, configured, context, record

REQUEST = {"type": "request/1", "request_id": "r", "tenant": "newcomer", "kind": "echo", "input": {"text": "hush"}}
JSON_HEADER = ("content-type", b"application/json")
UNKNOWN = UnknownTenant(tenant="newcomer")
BROKEN = Malformed(problem="it is empty")


class Graveyard:
    """A log in memory with dead letters on it, and the command over it."""

    def __init__(self, keyring: Path) -> None:
        self.clock = WallClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.create(specs(configured()))
        self._ctx = context(self.clock, configured(), self.broker, service="ingest")
        self._keyring = keyring
        self.dead: list[Out] = []

    def bury(self, found: Record, error: LlmosError = BROKEN) -> None:
        """What a stage could not use; on the log with the next command."""
        self.dead.append(dead_letter(self._ctx, found._replace(timestamp=self.clock.now()), error))

    @asynccontextmanager
    async def open_log(self, settings: Settings) -> AsyncIterator[Log]:
        """As `Session.open_log`."""
        log = self.broker.connect("operator")
        if self.dead:
            await log.emit(Place("dead", 0), self.dead)
            self.dead = []
        try:
            yield log
        finally:
            await log.close()

    def __call__(self, *words: str, stdin: str = "") -> Result:
        session = Session(open_log=self.open_log)
        line = ["--set", f"keyring_file={self._keyring}", "dead", *words]
        return CliRunner().invoke(app, line, input=stdin, obj=session)

    def objects(self, *words: str) -> list[dict[str, Any]]:
        """What the command prints with --json."""
        found = self(*words, "--json")
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]

    def on(self, topic: str, partition: int = 0) -> Sequence[Record]:
        """What is on a partition."""
        return [stored.record for stored in self.broker.dump(topic)[partition]]


@pytest.fixture
def graves(tmp_path: Path) -> Graveyard:
    path = tmp_path / "keyring.json"
    save_keyring(KEYS, path)
    return Graveyard(path)


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(REQUEST | fields)


# --- list ---


def test_letters_are_listed(graves: Graveyard) -> None:
    """Where, why, in which stage, how large; never what is inside."""
    graves.bury(record(packed(), "requests", 1, 7), UNKNOWN)
    shown = graves("list")
    assert shown.exit_code == 0
    for word in ("requests:1:7", "unknown_tenant", "ingest", "newcomer"):
        assert word in shown.stdout
    assert "hush" not in shown.output
    (found,) = graves.objects("list")
    assert (found["origin"], found["code"], found["size"], found["cut"]) == (
        "requests:1:7",
        "unknown_tenant",
        len(packed()),
        False,
    )


@pytest.mark.parametrize(
    ("words", "offsets"),
    [
        ((), [1, 2, 3]),
        (("--code", "malformed"), [2, 3]),
        (("--stage", "worker"), []),
        (("--since", "1h"), [1, 2, 3]),
        (("--since", "2999-01-01"), []),
        (("--limit", "1"), [3]),
        (("--origin", "requests:0:2", "--origin", "requests:0:1"), [1, 2]),
        (("--tenant", "newcomer"), [1]),
        (("--tenant", "acme"), [3]),
    ],
)
def test_filters_say_which(graves: Graveyard, words: tuple[str, ...], offsets: list[int]) -> None:
    """By reason, stage, time, origin and the tenant inside, in MessagePack and JSON."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    graves.bury(record(b"\xc1", offset=2))
    graves.bury(record(json.dumps(REQUEST | {"tenant": "acme"}).encode(), offset=3, headers=(JSON_HEADER,)))
    assert [int(found["origin"].rpartition(":")[2]) for found in graves.objects("list", *words)] == offsets


def test_a_strangers_words_do_not_steer_the_terminal(graves: Graveyard) -> None:
    """Escape sequences of a record are written out, in the list as in the letter."""
    graves.bury(
        record(packed(tenant="\x1b[2J"), offset=1, headers=(("\x1b[31m", b"\x1b]0;x\x07"),)),
        UnknownTenant(tenant="\x1b[2J"),
    )
    for words in (("list",), ("show", "requests:0:1")):
        shown = graves(*words)
        assert shown.exit_code == 0
        assert "\x1b" not in shown.stdout
        assert "\\x1b" in shown.stdout


# --- show ---


@pytest.mark.parametrize(
    ("value", "headers", "words"),
    [
        (packed(), (), ("MessagePack", '"text": "hush"')),
        (json.dumps(REQUEST).encode(), (JSON_HEADER,), ("JSON", '"text": "hush"', "header content-type")),
        (packed(payload=b"\x00\xff"), (), ("2 bytes: 00ff",)),
        (b"\xc1 rubbish", (), ("bytes", "c1207275", ". rubbish")),
        (b"{broken", (JSON_HEADER,), ("value, text", "{broken")),
        (packed(payload=msgspec.msgpack.encode({"text": "inside"})), (), ('"text": "inside"',)),
        (packed(payload=b'{"text": "in JSON"}'), (), ('"text": "in JSON"',)),
        (packed(payload="schlichter Text, grün".encode()), (), ("schlichter Text, grün",)),
        (b"", (), ("bytes",)),
        (b"\x91" * 100_000, (), ("bytes", "bytes more")),
        (b"[" * 100_000, (JSON_HEADER,), ("text", "characters more")),
        (b"\xdd\xff\xff\xff\xff", (), ("bytes",)),
        (msgspec.msgpack.encode({1: {b"k": float("nan")}}), (), ("MessagePack",)),
    ],
)
def test_a_letter_is_opened(
    graves: Graveyard, value: bytes, headers: tuple[tuple[str, bytes], ...], words: tuple[str, ...]
) -> None:
    """Key, headers, and the value as a message where it is one; with a word that it is somebody's."""
    graves.bury(record(value, offset=1, key=b"the-key", headers=headers))
    shown = graves("show", "requests:0:1")
    assert shown.exit_code == 0, shown.output
    for word in ("somebody's payload", "the-key", *words):
        assert word in shown.output


def test_the_value_as_it_is(graves: Graveyard, tmp_path: Path) -> None:
    """On standard output, or into a file that its owner alone can read and that was not there before."""
    graves.bury(record(b"\x00raw\xff", offset=1))
    assert graves("show", "requests:0:1", "--raw").stdout_bytes == b"\x00raw\xff"
    path = tmp_path / "value"
    assert graves("show", "requests:0:1", "--raw", "--out", str(path)).exit_code == 0
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\x00raw\xff", 0o600)
    assert graves("show", "requests:0:1", "--raw", "--out", str(path)).exit_code == 78
    (found,) = graves.objects("show", "requests:0:1")
    assert found["value"] == "AHJhd/8="


def test_a_letter_that_is_not_there_or_does_not_open_is_told(graves: Graveyard) -> None:
    """Without its key nobody reads it."""
    assert graves("show", "requests:0:1").exit_code == 78
    graves.bury(record(b"x", offset=1))
    save_keyring(KEYS.rotated("dead").destroyed(KEYS.active("dead").id), graves._keyring)
    shown = graves("show", "requests:0:1")
    assert shown.exit_code == 78
    assert KEYS.active("dead").id in shown.stderr


# --- replay ---


def test_records_are_put_back_as_they_were(graves: Graveyard) -> None:
    """To their own topics and partitions, in their order, key and headers kept, with an operator's word; marked as such."""
    for offset in (5, 4):
        graves.bury(record(packed(request_id=f"r{offset}"), "requests", 1, offset, b"k", (JSON_HEADER,)), UNKNOWN)
    graves.bury(record(packed(request_id="b"), "requests.batch", 0, 3, None), UNKNOWN)
    done = graves("replay", "--code", "unknown_tenant", "--yes")
    assert done.exit_code == 0, done.output
    assert "put back: 3" in done.stderr
    back = graves.on("requests", 1)
    assert [msgspec.msgpack.decode(found.value or b"")["request_id"] for found in back] == ["r4", "r5"]
    assert (back[0].key, back[0].headers[0]) == (b"k", JSON_HEADER)
    for found, first in ((back[0], 4), (back[1], 5)):
        replay = replay_of(KEYS, found)
        assert replay is not None
        assert (replay.first.offset, replay.replays) == (first, 1)
    assert [found.key for found in graves.on("requests.batch")] == [None]
    marks = [m for r in graves.on("dead") if isinstance(m := DEAD.decode(r.value), DeadReplayed)]
    assert [(m.origin.offset, m.to.offset) for m in marks] == [(3, 0), (4, 0), (5, 1)]
    assert all(found["replayed_to"] for found in graves.objects("list"))


def test_a_second_run_finds_nothing_to_do(graves: Graveyard) -> None:
    """What was put back is left out and counted."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    graves("replay", "--code", "unknown_tenant", "--yes")
    (said,) = graves.objects("replay", "requests:0:1", "--yes")
    assert said == {"would_replay": [], "skipped": {"put back already": 1}}
    assert len(graves.on("requests")) == 1


def test_a_record_that_died_again_waits_for_again(graves: Graveyard) -> None:
    """No loop: it is left out until an operator insists, and then carries one word, with the higher count."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    graves("replay", "requests:0:1", "--yes")
    (back,) = graves.on("requests")
    graves.bury(back, UNKNOWN)
    listed = graves.objects("list")
    assert [(found["replays"], found["first"]) for found in listed] == [(0, None), (1, "requests:0:1")]
    assert graves.objects("replay", "--stage", "ingest", "--yes")[-1]["would_replay"] == []
    (put, said) = graves.objects("replay", "--stage", "ingest", "--again", "--yes")
    assert (put, said["replayed"]) == ({"origin": "requests:0:0", "to": "requests:0:1"}, 1)
    replay = replay_of(KEYS, graves.on("requests")[1])
    assert replay is not None
    assert (replay.first.offset, replay.replays) == (1, 2)
    assert [name for name, _ in graves.on("requests")[1].headers] == [REPLAY_HEADER]


def spoil(graves: Graveyard, **fields: object) -> None:
    """Changes the letter that was buried last."""
    last = DEAD.decode(graves.dead[-1].value or b"")
    graves.dead[-1] = graves.dead[-1]._replace(value=msgspec.msgpack.encode(msgspec.structs.replace(last, **fields)))


@pytest.mark.parametrize("fields", [{"value": b"damaged"}, {"key_id": "00" * 8}], ids=["damaged", "key gone"])
def test_a_letter_that_does_not_open_holds_up_no_other(graves: Graveyard, fields: dict[str, object]) -> None:
    """It is left out and counted, by `list`, too, where it would have to be opened."""
    for offset in (1, 2, 3):
        graves.bury(record(packed(), offset=offset), UNKNOWN)
        if offset == 2:
            spoil(graves, **fields)
    listed = graves("list", "--tenant", "newcomer")
    assert "1 letters do not open with this keyring" in listed.stderr
    assert "requests:0:2" not in listed.stdout
    assert ("1 are sealed under keys" in graves("list").stderr) == ("key_id" in fields)
    (*puts, said) = graves.objects("replay", "--code", "unknown_tenant", "--yes")
    assert [put["origin"] for put in puts] == ["requests:0:1", "requests:0:3"]
    assert said == {"replayed": 2, "skipped": {UNOPENED: 1}}
    assert graves.objects("replay", "--tenant", "newcomer", "--dry-run")[-1]["skipped"][UNOPENED] == 1


def test_who_names_a_letter_without_its_key_is_told(graves: Graveyard) -> None:
    """Before anything is done."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    spoil(graves, key_id="00" * 8)
    said = graves("replay", "requests:0:1", "--yes")
    assert (said.exit_code, "key 0000000000000000" in said.stderr) == (78, True)


def test_a_dry_run_writes_nothing(graves: Graveyard) -> None:
    """It says what it would do."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    done = graves("replay", "--code", "unknown_tenant", "--dry-run")
    assert "would put back requests:0:1" in done.stdout
    assert (len(graves.on("requests")), len(graves.on("dead"))) == (0, 1)


def test_without_yes_it_asks(graves: Graveyard) -> None:
    """No is no."""
    graves.bury(record(packed(), offset=1), UNKNOWN)
    assert graves("replay", "requests:0:1", stdin="n\n").exit_code == 1
    assert not graves.on("requests")
    assert graves("replay", "requests:0:1", stdin="y\n").exit_code == 0
    assert len(graves.on("requests")) == 1


@pytest.mark.parametrize(
    ("buried", "words", "problem"),
    [
        (record(b"\xc1", "sealed", offset=1), ("sealed:0:1",), "written by the system itself"),
        (record(b"x" * 8_388_608, offset=1), ("requests:0:1",), "too large"),
        (record(b"x", offset=1), ("requests:0:2",), "no dead letter"),
        (record(b"x", offset=1), (), "name the letters"),
        (record(b"x", offset=1), ("nonsense",), "topic:partition:offset"),
    ],
)
def test_what_cannot_be_put_back_is_told(
    graves: Graveyard, buried: Record, words: tuple[str, ...], problem: str
) -> None:
    """Before anything is done."""
    graves.bury(buried)
    done = graves("replay", *words, "--yes")
    assert done.exit_code == 78
    assert problem in done.stderr.replace("\n", " ")
    assert len(graves.on("dead")) <= 1


def test_what_is_no_letter_is_counted(graves: Graveyard) -> None:
    """What else lies on the topic does not hide the letters."""
    graves.dead.append(Out(None, b"\xc1"))
    graves.bury(record(b"x", offset=1))
    shown = graves("list")
    assert "requests:0:1" in shown.stdout
    assert "1 records on the topic are no letters" in shown.stderr
