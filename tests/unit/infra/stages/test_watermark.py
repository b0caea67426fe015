"""L, the origin map at L and U of the scheduler's commit, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.log.port import Commit
from llmos.infra.stages.derived import Watermark
from llmos.infra.stages.origins import Origins
from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin

Story = list[tuple[str, Origin | int | None]]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Records of one partition of `sealed`: submissions, replays, unreadable ones; receipts of any submission so far.

    `take` asks for a commit, `restart` starts anew from the last one.
    """
    story: Story = []
    live: list[int] = []
    s, new = 0, [0, 0]
    for what in draw(st.lists(st.sampled_from(["new", "new", "replay", "dead", "receipt", "receipt", "take", "restart"]), max_size=25)):  # fmt: skip
        if what == "receipt":
            if live:
                story.append(("receipt", live.pop(draw(st.integers(0, len(live) - 1)))))
            continue
        if what in ("take", "restart"):
            story.append((what, None))
            continue
        source = draw(st.integers(0, 1))
        origin: Origin | None = None
        if what == "new":
            origin = Origin("requests", source, new[source])
            new[source] += draw(st.integers(1, 3))
            live.append(s)
        elif what == "replay" and new[source]:
            origin = Origin("requests", source, draw(st.integers(0, new[source] - 1)))
            if origin.offset not in [o.offset for w, o in story if isinstance(o, Origin) and o.partition == source]:
                origin = Origin("requests", source, 0)
        story.append(("sealed", origin))
        s += 1
    return story


class Everything:
    """The model: all records and all receipts, nothing forgotten."""

    def __init__(self) -> None:
        self.sealed: list[tuple[Origin | None, bool]] = []
        """Each record with whether it is a new submission."""
        self.usage: list[int] = []
        """The s of each receipt, by offset."""

    def submission(self, origin: Origin | None) -> bool:
        """Adds a record; whether it is new."""
        earlier = [o.offset for o, _ in self.sealed if o and origin and o.partition == origin.partition]
        new = origin is not None and origin.offset > max(earlier, default=-1)
        self.sealed.append((origin, new))
        return new

    def live(self, s: int) -> bool:
        """Whether s is owed an answer."""
        return self.sealed[s][1] and s not in self.usage

    def commit(self) -> Commit:
        """L, the map at L, U."""
        low = next((s for s in range(len(self.sealed)) if self.live(s)), len(self.sealed))
        origins = Origins()
        for origin, new in self.sealed[:low]:
            if origin is not None and new:
                origins.accept(origin)
        usage_from = min((offset for offset, s in enumerate(self.usage) if s >= low), default=len(self.usage))
        return Commit(low, f"{origins.dump()} U={usage_from}")


@given(stories())
def test_against_a_model_that_forgets_nothing(story: Story) -> None:
    """New, answered, L, map and U are the model's at every step, also after starts from commits of any age."""
    model, mark = Everything(), Watermark(Commit(0, ""))
    last = Commit(0, "")
    for what, value in story:
        if what == "sealed":
            s = len(model.sealed)
            assert isinstance(value, Origin | None)
            assert mark.submission(s, value) == model.submission(value)
        elif what == "receipt":
            assert isinstance(value, int)
            mark.receipt(value, len(model.usage))
            model.usage.append(value)
        elif what == "take":
            mark.advance()
            last = mark.commit()
            assert last == model.commit()
        else:
            mark = _restarted(last, model)
        for s, (_, new) in enumerate(model.sealed):
            if new:
                assert mark.answered(s) == (s in model.usage)
    mark.advance()
    assert mark.commit() == model.commit()
    assert mark.position == len(model.sealed)


def _restarted(commit: Commit, model: Everything) -> Watermark:
    """A new life: receipts from U, then records from L; what it finds live is what is."""
    mark = Watermark(commit)
    for offset in range(mark.usage_position, len(model.usage)):
        mark.receipt(model.usage[offset], offset)
    found = [s for s in range(mark.low, len(model.sealed)) if mark.submission(s, model.sealed[s][0])]
    assert found == [s for s in range(len(model.sealed)) if model.live(s)]
    return mark


def test_l_passes_what_is_never_answered() -> None:
    """Replays and unreadable records hold nothing back; an open submission does."""
    mark = Watermark(Commit(0, ""))
    mark.submission(0, None)
    mark.submission(1, Origin("requests", 0, 5))
    mark.submission(2, Origin("requests", 0, 5))
    mark.advance()
    assert mark.low == 1
    mark.receipt(1, 0)
    mark.advance()
    assert (mark.low, mark.position) == (3, 3)


def test_a_receipt_may_come_before_its_submission() -> None:
    """At start receipts are read first; the submission is then answered already."""
    mark = Watermark(Commit(4, ""))
    mark.receipt(4, 9)
    assert not mark.submission(4, Origin("requests", 0, 0))
    assert mark.answered(4)
    assert mark.answered(3), "everything below L is"
    mark.advance()
    assert mark.commit().offset == 5


@pytest.mark.parametrize("metadata", ["L=3 V=4", " U=x", "%% U=3"])
def test_foreign_metadata_is_an_error(metadata: str) -> None:
    """Metadata of another hand is never taken for the beginning."""
    with pytest.raises(CommitMissing):
        Watermark(Commit(3, metadata))
