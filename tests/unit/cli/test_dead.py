"""Which letters are meant and which are put back, as tables; the list of letters as it stands on the topic."""

from __future__ import annotations

import msgspec
import pytest
import typer

from llmos.cli.dead import (
    A_COPY,
    CUT,
    DIED_AGAIN,
    REPLAYED,
    UNOPENED,
    Entry,
    Filters,
    Letters,
    choose,
    counted,
    for_good,
    name_of,
    read_origin,
    why_not,
)
from llmos.cli.since import since
from llmos.schemas.dead import DeadLetter, DeadReplayed
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import ErrorInfo, Origin

NOW = 1_700_000_000.0


def letter(offset: int = 0, partition: int = 0, topic: str = "requests", **fields: object) -> DeadLetter:
    """A letter of ingest."""
    values = {"stage": "ingest", "error": ErrorInfo(code="malformed", message="no"), "at": NOW} | fields
    return DeadLetter(origin=Origin(topic, partition, offset), **values)  # type: ignore[arg-type]


def mark(offset: int = 0, partition: int = 0) -> DeadReplayed:
    """That it was put back."""
    return DeadReplayed(origin=Origin("requests", partition, offset), to=Origin("requests", partition, 99), at=NOW)


@pytest.mark.parametrize(
    ("entry", "again", "reason"),
    [
        (Entry(0, letter()), False, ""),
        (Entry(0, letter(topic="requests.batch")), False, ""),
        (Entry(0, letter(topic="requests.interactive")), True, ""),
        (Entry(0, letter(), mark()), False, REPLAYED),
        (Entry(0, letter(), mark()), True, REPLAYED),
        (Entry(0, letter(replays=1)), False, DIED_AGAIN),
        (Entry(0, letter(replays=1)), True, ""),
        (Entry(0, letter(replays=1), mark()), True, REPLAYED),
        (Entry(0, letter(cut=True)), True, CUT),
        (Entry(0, letter(cut=True), mark()), True, CUT),
    ],
)
def test_what_is_put_back(entry: Entry, again: bool, reason: str) -> None:
    """Never twice, never what is not whole, and only on demand what died again."""
    assert why_not(entry, again=again) == reason
    assert for_good(reason) == (reason in ("", CUT))


@pytest.mark.parametrize("topic", ["admitted", "sealed", "partials", "work.node-0.cpu0", "control", "reply.demo"])
def test_what_the_system_wrote_itself_is_never_put_back(topic: str) -> None:
    """It has an origin of its own there, and a second one would be another record."""
    reason = why_not(Entry(0, letter(topic=topic)), again=True)
    assert topic in reason
    assert for_good(reason)


@pytest.mark.parametrize("code", ["replayed", "stale"])
def test_copies_are_put_back_only_where_they_are_named(code: str) -> None:
    """A thousand copies of a signed request and one filter must not be a thousand jobs of its tenant."""
    error = ErrorInfo(code=code, message="m")
    entries = [Entry(i, msgspec.structs.replace(letter(i), error=error)) for i in range(3)] + [Entry(3, letter(3))]
    named = entries[1].letter.origin
    assert [e.offset for e in choose(entries, again=True).replay] == [3]
    choice = choose(entries, again=True, named=[named])
    assert [e.offset for e in choice.replay] == [1, 3]
    assert {reason for _, reason in choice.skipped} == {A_COPY}
    assert not for_good(A_COPY)


def test_the_order_of_each_partition_is_kept() -> None:
    """Whatever the order in which they died."""
    entries = [
        Entry(i, letter(offset, partition)) for i, (offset, partition) in enumerate([(9, 0), (3, 1), (4, 0), (5, 1)])
    ]
    choice = choose([*entries, Entry(9, letter(7, cut=True))], again=False)
    for partition, offsets in ((0, [4, 9]), (1, [3, 5])):
        chosen = [e.letter.origin.offset for e in choice.replay if e.letter.origin.partition == partition]
        assert chosen == offsets
    assert [(name_of(e.letter.origin), reason) for e, reason in choice.skipped] == [("requests:0:7", CUT)]


def test_what_the_keyring_does_not_open_is_left_out() -> None:
    """And holds up none of the others."""
    entries = [Entry(0, msgspec.structs.replace(letter(0), key_id="gone")), Entry(1, letter(1))]
    choice = choose(entries, again=False, has=lambda key_id: key_id != "gone")
    assert [entry.offset for entry in choice.replay] == [1]
    assert [reason for _, reason in choice.skipped] == [UNOPENED]


@pytest.mark.parametrize(
    ("filters", "meant"),
    [
        (Filters(), True),
        (Filters(code="malformed", stage="ingest", since=NOW), True),
        (Filters(code="forged"), False),
        (Filters(stage="verify"), False),
        (Filters(since=NOW + 1), False),
        (Filters(origins=[Origin("requests", 0, 0)]), True),
        (Filters(origins=[Origin("requests", 0, 1)]), False),
    ],
)
def test_filters(filters: Filters, meant: bool) -> None:
    """All that is given must hold."""
    assert filters.mean(letter()) is meant


def test_repeats_count_once_and_marks_hold_whatever_the_order() -> None:
    """A stage that was killed before its commit writes its letters again, also after the record was put back."""
    letters = Letters()
    letters.mark(mark(1))
    for offset, found in enumerate([letter(1), letter(2), letter(1)]):
        letters.add(offset, found)
    letters.mark(mark(5))
    assert [(e.letter.origin.offset, e.offset, e.replayed is not None) for e in letters.entries()] == [
        (2, 1, False),
        (1, 2, True),
    ]


def test_the_last_letters_are_kept() -> None:
    """A long list keeps to its limit while it is read, and says how many there were."""
    letters = Letters(limit=2)
    for offset in range(5):
        letters.add(offset, letter(offset))
    assert [e.offset for e in letters.entries()] == [3, 4]
    assert letters.left_out == 3


def test_reasons_are_counted() -> None:
    """The most frequent first."""
    assert list(counted(["a", "b", "b"]).items()) == [("b", 2), ("a", 1)]


@pytest.mark.parametrize("text", ["requests:0:7", "requests.interactive:12:9223372036854775807"])
def test_origins_are_read_as_they_are_shown(text: str) -> None:
    """Both ways."""
    assert name_of(read_origin(f" {text} ")) == text


@pytest.mark.parametrize(
    "text", ["", "requests", "requests:0", "requests:x:1", "a b:0:1", "requests:0:-1", "../x:0:1x"]
)
def test_what_is_no_origin_is_told(text: str) -> None:
    """With an example."""
    with pytest.raises(BadSetting):
        read_origin(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", NOW - 90),
        ("1.5h", NOW - 5400),
        ("7 d", NOW - 7 * 86_400),
        ("10min", NOW - 600),
        ("2023-11-14", 1_699_920_000.0),
        ("2023-11-14T01:00:00+01:00", 1_699_920_000.0),
    ],
)
def test_points_in_time(text: str, at: float) -> None:
    """A duration before now, or a date."""
    assert since(text, NOW) == at


@pytest.mark.parametrize("text", ["", "soon", "1w", "-5m", "2023-13-01", "9" * 400 + "s"])
def test_what_is_no_point_in_time_is_told(text: str) -> None:
    """As any wrong option."""
    with pytest.raises(typer.BadParameter):
        since(text, NOW)
