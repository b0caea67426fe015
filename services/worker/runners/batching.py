"""Which of the texts that wait are embedded together: a pure function of their lengths."""

from __future__ import annotations

from collections.abc import Sequence

LENGTH_RATIO = 2.0
"""Texts whose lengths differ by more than this factor are not embedded together: the shorter ones would mostly be padding."""
SHORT_CHARACTERS = 64
"""Below this, lengths do not matter: the step itself costs more than the padding."""


def choose_batch(waiting: Sequence[tuple[int, int]], room: int) -> list[int]:
    """The places of those to embed now, of `waiting` as (texts, characters of the longest), the oldest first.

    The oldest always goes, also where it has more texts than there is room for: so nobody waits for ever. Others of
    about its length join it, the likest first, as long as their texts fit into `room`.
    """
    (texts, characters), *others = waiting
    length = max(characters, SHORT_CHARACTERS)
    ratios = sorted((_ratio(max(other, SHORT_CHARACTERS), length), i + 1) for i, (_, other) in enumerate(others))
    chosen, left = [0], room - texts
    for ratio, i in ratios:
        if ratio > LENGTH_RATIO:
            break
        if waiting[i][0] <= left:
            chosen.append(i)
            left -= waiting[i][0]
    return sorted(chosen)


def _ratio(a: int, b: int) -> float:
    return max(a, b) / min(a, b)
