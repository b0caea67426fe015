"""The map of highest origins: a record whose origin is not higher than what came before is a replay and is dropped."""

from __future__ import annotations

import base64

import msgspec

from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin
from llmos.schemas.limits import METADATA_CHARACTERS


class Origins:
    """Highest origin per source partition, as of one offset of the partition being read."""

    __slots__ = ("_highest",)

    def __init__(self, highest: dict[str, dict[int, int]] | None = None) -> None:
        self._highest: dict[str, dict[int, int]] = highest or {}

    def accept(self, origin: Origin) -> bool:
        """Whether `origin` is new; notes it if it is."""
        partitions = self._highest.setdefault(origin.topic, {})
        if origin.offset <= partitions.get(origin.partition, -1):
            return False
        partitions[origin.partition] = origin.offset
        return True

    def dump(self) -> str:
        """The map as metadata of a committed offset."""
        text = base64.b64encode(msgspec.msgpack.encode(self._highest)).decode()
        assert len(text) <= METADATA_CHARACTERS, "N is bounded so that the map fits"
        return text

    @staticmethod
    def load(text: str) -> Origins:
        """What `dump` wrote; empty text is the empty map.

        Raises:
            CommitMissing: the metadata is not one of ours.
        """
        if not text:
            return Origins()
        try:
            return Origins(msgspec.msgpack.decode(base64.b64decode(text), type=dict[str, dict[int, int]]))
        except (ValueError, msgspec.DecodeError):
            raise CommitMissing(group="(unreadable metadata)", topic="?", partition=-1) from None
