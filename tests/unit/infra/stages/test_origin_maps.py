"""Origin maps as metadata: whatever the offsets, the largest N fits what Kafka takes with a commit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.log.port import Commit
from llmos.infra.stages.derived import Watermark
from llmos.infra.stages.origins import Origins
from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin
from llmos.schemas.limits import METADATA_CHARACTERS, PARTITIONS
from llmos.schemas.topics import REQUESTS

LARGEST = 2**63 - 1
OFFSETS = st.integers(0, LARGEST)
MAPS = st.dictionaries(
    st.sampled_from(sorted(REQUESTS.values())), st.dictionaries(st.integers(0, PARTITIONS - 1), OFFSETS, max_size=9)
)


def full(partitions: int, offset: int) -> Origins:
    """A map with every source partition at `offset`."""
    return Origins({topic: dict.fromkeys(range(partitions), offset) for topic in REQUESTS.values()})


@pytest.mark.parametrize("offset", [0, 2**32, 2**40, LARGEST])
def test_the_largest_map_fits_with_the_longest_u(offset: int) -> None:
    """Three topics of the largest N, and the scheduler's U beside them, and it is read back as it was."""
    watermark = Watermark(Commit(0, f"{full(PARTITIONS, offset).dump()} U={LARGEST}"))
    commit = watermark.commit()
    assert len(commit.metadata) <= METADATA_CHARACTERS
    again = Watermark(commit)
    assert again.usage_position == LARGEST
    assert again.commit() == commit


def test_the_limit_is_the_largest_that_fits() -> None:
    """With one partition more the longest metadata would be too long."""
    assert len(full(PARTITIONS, LARGEST).dump()) + len(f" U={LARGEST}") <= METADATA_CHARACTERS
    assert len(full(PARTITIONS + 1, LARGEST).dump()) + len(f" U={LARGEST}") > METADATA_CHARACTERS


@given(MAPS)
def test_a_map_comes_back_from_its_metadata(highest: dict[str, dict[int, int]]) -> None:
    """What was seen is seen again after a start; what is higher is new, once."""
    origins = Origins.load(Origins(highest).dump())
    for topic, partitions in highest.items():
        for partition, offset in partitions.items():
            assert not origins.accept(Origin(topic, partition, offset))
            assert not origins.accept(Origin(topic, partition, max(offset - 1, 0)))
            assert origins.accept(Origin(topic, partition, offset + 1))
            assert not origins.accept(Origin(topic, partition, offset + 1))
    assert origins.accept(Origin("elsewhere", 0, 0))


@pytest.mark.parametrize("text", ["?", "AAAA", "L=1 V=2", "gA== U=x", "AAAA U=1"])
def test_metadata_of_others_is_refused(text: str) -> None:
    """An unreadable map is never taken for an empty one: everything behind it would be done again."""
    with pytest.raises(CommitMissing):
        Watermark(Commit(5, text))
