"""The map of highest origins: what is new, what is a replay, and how it travels as metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.settings.tree import Instance
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.ownership import owned
from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin

ORIGINS = st.builds(Origin, st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 8))


@pytest.mark.parametrize(
    ("came", "new"),
    [
        pytest.param([("a", 0, 0)], [True], id="the first offset of all is new"),
        pytest.param([("a", 0, 5), ("a", 0, 5)], [True, False], id="the same again"),
        pytest.param([("a", 0, 5), ("a", 0, 4)], [True, False], id="an older one"),
        pytest.param([("a", 0, 5), ("a", 0, 9)], [True, True], id="a gap is no matter"),
        pytest.param([("a", 0, 5), ("a", 1, 5), ("b", 0, 5)], [True, True, True], id="each source for itself"),
    ],
)
def test_accept(came: list[tuple[str, int, int]], new: list[bool]) -> None:
    """Only what is above everything before it from the same source is new."""
    origins = Origins()
    assert [origins.accept(Origin(*origin)) for origin in came] == new


@given(st.lists(ORIGINS, max_size=30), st.lists(ORIGINS, max_size=30))
def test_metadata_is_the_whole_map(before: list[Origin], after: list[Origin]) -> None:
    """A map that was dumped and loaded decides as the one that went on."""
    origins = Origins()
    for origin in before:
        origins.accept(origin)
    loaded = Origins.load(origins.dump())
    assert [loaded.accept(origin) for origin in after] == [origins.accept(origin) for origin in after]
    assert loaded.dump() == origins.dump()


@pytest.mark.parametrize("text", ["L=3 V=4", "%%%", "AAA", "kw==", "gaFhAQ=="])
def test_foreign_metadata_is_an_error(text: str) -> None:
    """Metadata of another hand is never read as an empty map: everything would count as new."""
    with pytest.raises(CommitMissing):
        Origins.load(text)


def test_no_metadata_is_the_empty_map() -> None:
    """At the very beginning nothing came yet."""
    assert Origins.load("").accept(Origin("a", 0, 0))


@given(st.integers(1, 20), st.integers(1, 6))
def test_every_partition_has_one_owner(partitions: int, n: int) -> None:
    """The shares of n instances are all partitions, none twice."""
    shares = [owned(Instance(i=i, n=n), partitions) for i in range(n)]
    assert sorted(p for share in shares for p in share) == list(range(partitions))
