"""Which dead letters an operator means, and which of them can be put back, in which order. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from llmos.schemas import topics
from llmos.schemas.dead import DeadLetter, DeadReplayed, origin_key
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import Origin

REPLAYED: Final = "put back already"
DIED_AGAIN: Final = "died again after it was put back; --again puts it back once more"
A_COPY: Final = (
    "it is a copy of a request, or an old one, for all that could be told; name its origin to put it back all the same"
)
COPIES: Final = frozenset({"replayed", "stale"})
"""Codes of what an attacker sends by the thousand: no filter means it."""
UNOPENED: Final = "it does not open with this keyring"
CUT: Final = "it was too large for its letter, so that not all of it is there"

_ORIGIN = re.compile(r"([A-Za-z0-9._-]{1,249}):(\d{1,6}):(\d{1,19})")


class Entry(NamedTuple):
    """A dead letter on the list: all but its contents."""

    offset: int
    """Of the letter on `dead`."""
    letter: DeadLetter
    replayed: DeadReplayed | None = None
    """That it was put back."""


class Filters(NamedTuple):
    """What a letter must be to be meant; all that is given must hold."""

    code: str = ""
    stage: str = ""
    since: float = 0.0
    """Unix seconds."""
    origins: Collection[Origin] = ()
    tenant: str = ""
    """Of the request inside. Whoever reads the letters must open them to tell."""

    def mean(self, letter: DeadLetter) -> bool:
        """Whether they mean this letter, by all that can be told from outside."""
        return (
            self.code in ("", letter.error.code)
            and self.stage in ("", letter.stage)
            and letter.at >= self.since
            and (not self.origins or letter.origin in self.origins)
        )


class Choice(NamedTuple):
    """What becomes of the letters that are meant."""

    replay: list[Entry]
    """In the order in which they are put back: per partition in the order of their origins."""
    skipped: list[tuple[Entry, str]]
    """With the reason."""


class Letters:
    """Collects letters and marks as they stand on `dead`; a letter that is there twice counts once.

    Of more than `limit` letters the last ones are kept.
    """

    def __init__(self, limit: int = 0) -> None:
        """`limit` 0: all."""
        self._limit = limit
        self._letters: dict[Origin, tuple[int, DeadLetter]] = {}
        self._replayed: dict[Origin, DeadReplayed] = {}
        self.left_out = 0
        self.unreadable = 0
        """Records that are no letters."""
        self.unopened = 0
        """Letters that would have to be opened to tell whether they are meant, and do not open."""

    def mark(self, replayed: DeadReplayed) -> None:
        """A letter was put back."""
        self._replayed[replayed.origin] = replayed

    def add(self, offset: int, letter: DeadLetter) -> None:
        """A letter, without its contents."""
        self._letters.pop(letter.origin, None)
        self._letters[letter.origin] = offset, letter
        if self._limit and len(self._letters) > self._limit:
            del self._letters[next(iter(self._letters))]
            self.left_out += 1

    def entries(self) -> list[Entry]:
        """In the order of `dead`."""
        return [Entry(*found, self._replayed.get(origin)) for origin, found in self._letters.items()]


def choose(
    entries: Iterable[Entry],
    *,
    again: bool,
    named: Collection[Origin] = (),
    has: Callable[[str], bool] = lambda key_id: True,
) -> Choice:
    """Which letters are put back. `again`: those too whose record died once more after it was put back. `named`: the origins
    that the operator named, one by one. `has`: whether the keyring has a key."""
    replay, skipped = [], []
    for entry in sorted(entries, key=lambda entry: entry.letter.origin.offset):
        reason = why_not(entry, again=again, named=entry.letter.origin in named)
        reason = reason or ("" if has(entry.letter.key_id) else UNOPENED)
        if reason:
            skipped.append((entry, reason))
        else:
            replay.append(entry)
    return Choice(replay, skipped)


def why_not(entry: Entry, *, again: bool, named: bool = False) -> str:
    """Why a letter is not put back; empty where it is."""
    letter = entry.letter
    if letter.origin.topic not in topics.REQUESTS.values():
        return f"only what clients sent is put back, and {letter.origin.topic} is written by the system itself"
    if letter.cut:
        return CUT
    if entry.replayed is not None:
        return REPLAYED
    if letter.error.code in COPIES and not named:
        return A_COPY
    return DIED_AGAIN if letter.replays and not again else ""


def for_good(reason: str) -> bool:
    """Whether no option changes that a letter is not put back, so that asking for it by name is an error."""
    return reason not in (REPLAYED, DIED_AGAIN, A_COPY)


def counted(reasons: Sequence[str]) -> Mapping[str, int]:
    """How often each reason was given, the most frequent first."""
    return dict(sorted(((reason, reasons.count(reason)) for reason in set(reasons)), key=lambda item: -item[1]))


def name_of(origin: Origin) -> str:
    """An origin as people write it: topic:partition:offset."""
    return origin_key(origin).decode()


def read_origin(text: str) -> Origin:
    """Reads topic:partition:offset. Raises `BadSetting`."""
    match = _ORIGIN.fullmatch(text.strip())
    if match is None:
        raise BadSetting(
            setting="ORIGIN", problem=f"{text!r} is not topic:partition:offset, as `llmos dead list` shows it"
        )
    return Origin(match[1], int(match[2]), int(match[3]))
