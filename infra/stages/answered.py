"""Which submissions of a partition have their answer: all s below L, and those whose receipts lie from V on (rule 4)."""

from __future__ import annotations

import msgspec

from llmos.schemas.errors import CommitMissing


class Marks(msgspec.Struct, frozen=True):
    """L and V as metadata of a committed offset of `partials`."""

    low: int = 0
    usage_from: int = 0

    def dump(self) -> str:
        """As metadata."""
        return f"L={self.low} V={self.usage_from}"

    @staticmethod
    def load(text: str) -> Marks:
        """What `dump` wrote; empty text means from the beginning.

        Raises:
            CommitMissing: the metadata is not one of ours.
        """
        if not text:
            return Marks()
        try:
            low, usage_from = (int(field.partition("=")[2]) for field in text.split(" "))
        except ValueError:
            raise CommitMissing(group="(unreadable metadata)", topic="?", partition=-1) from None
        return Marks(low, usage_from)


class Answered:
    """The answered submissions of one partition."""

    __slots__ = ("_receipts", "_usage_end", "low")

    def __init__(self, marks: Marks) -> None:
        self.low = marks.low
        self._receipts: dict[int, int] = {}
        """s ≥ L → the offset of its receipt on `usage`."""
        self._usage_end = marks.usage_from

    def __contains__(self, s: int) -> bool:
        return s < self.low or s in self._receipts

    def note(self, s: int, usage_offset: int) -> None:
        """The receipt of `s` is at `usage_offset`."""
        self._usage_end = max(self._usage_end, usage_offset + 1)
        if s >= self.low:
            self._receipts.setdefault(s, usage_offset)

    def raise_low(self, low: int) -> None:
        """The scheduler says that everything below `low` is answered; an older word changes nothing."""
        if low > self.low:
            self.low = low
            self._receipts = {s: offset for s, offset in self._receipts.items() if s >= low}

    def marks(self) -> Marks:
        """L and V now."""
        return Marks(self.low, next(iter(self._receipts.values()), self._usage_end))
