"""Embeddings with the shipped encoder: batched over tasks, one bad text failing only itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from llmos.pipelines.engine.encoder import Encoder
from llmos.schemas.errors import EngineFailed
from llmos.schemas.tasks import EmbedInput, EmbedOutput
from llmos.services.worker.runners.embed import EmbedRunner
from llmos.services.worker.runners.events import Assignment, Began, Event, ItemEnded, TaskBroke, TaskEnded, Waiting
from tests.unit.services.worker.runners.making import Bench

BAD = "a text that breaks the model"
WIDTH = 384


def task(s: int, model: str, *texts: str) -> Assignment:
    return Assignment((0, s, 0, 1), "embed", model, EmbedInput(text=list(texts)))


def vectors(events: Sequence[Event]) -> dict[tuple[int, int], list[float] | str]:
    """(s, item) → vector, or the code of its error."""
    found: dict[tuple[int, int], list[float] | str] = {}
    for event in events:
        if isinstance(event, ItemEnded):
            output = msgspec.msgpack.decode(event.output, type=EmbedOutput).embedding if event.output else None
            found[event.name[1], event.item] = output or (event.error.code if event.error else "?")
    return found


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The model breaks on a batch that holds `BAD`; gives the sizes of the batches that were tried."""
    tried: list[int] = []
    original = Encoder.embed

    def embed(self: Encoder, texts: Sequence[str]) -> list[list[float]]:
        tried.append(len(texts))
        if BAD in texts:
            raise RuntimeError("the model is confused")
        return original(self, texts)

    monkeypatch.setattr(Encoder, "embed", embed)
    return tried


def test_tasks_of_one_model_are_one_batch(bench: Bench, encoder: str) -> None:
    """Each task gets its own vectors in its order, as if it were alone, and its share of the device's time."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    texts = {1: ("a cat", "a dog"), 2: ("the sea",)}
    for s, own in texts.items():
        runner.start(task(s, encoder, *own))
    events = runner.step()
    assert not runner.busy()
    assert [type(event) for event in events] == [Began, Began, ItemEnded, ItemEnded, TaskEnded, ItemEnded, TaskEnded]
    together = vectors(events)
    for s, own in texts.items():
        for item, text in enumerate(own):
            runner.start(task(9, encoder, text))
            assert together[s, item] == pytest.approx(vectors(runner.step())[9, 0], abs=1e-5)
    assert {len(vector) for vector in together.values()} == {WIDTH}
    seconds = [event.device_seconds for event in events if isinstance(event, TaskEnded)]
    assert seconds[0] == pytest.approx(2 * seconds[1])
    used = [bench.meter.used[0, s, 0, 1] for s in texts]
    assert [(one.tokens_in, one.tokens_out) for one in used] == [(8, 0), (4, 0)]
    assert [one.device_seconds for one in used] == pytest.approx(seconds)
    assert {event.precision for event in events if isinstance(event, TaskEnded)} == {"float32"}
    assert bench.meter.tasks[encoder, "embed"] == 5
    assert bench.meter.prefill_tokens[encoder, "embed"] == bench.meter.tokens_in[encoder, "embed"]
    assert bench.meter.busy_seconds[encoder, "embed"] > 0
    assert bench.meter.tokens_in[encoder, "embed"] == 2 * 4 * 3, "two words and two marks for each text, twice"


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_bad_text_fails_only_itself(bench: Bench, encoder: str, breaks: list[int], bad: int) -> None:
    """When the batch breaks, each text is tried alone: that shows whose fault it is, wherever it stands. Of a task with
    others it is that text's error; a task of it alone may fare better elsewhere."""
    texts = ["a cat", "a dog", "the sea"]
    texts[bad] = BAD
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, *texts[:2]))
    runner.start(task(2, encoder, texts[2]))
    events = runner.step()
    found = vectors(events)
    place = [(1, 0), (1, 1), (2, 0)][bad]
    broken = [event for event in events if isinstance(event, TaskBroke)]
    if bad == 2:
        assert [(event.name[1], event.error.code) for event in broken] == [(2, "engine_failed")]
    else:
        assert broken == []
        assert found.pop(place) == "engine_failed"
    assert {len(vector) for vector in found.values()} == {WIDTH}
    ended = [event.name[1] for event in events if isinstance(event, TaskEnded)]
    assert ended == ([1] if bad == 2 else [1, 2])
    assert breaks == [3, 1, 1, 1]


def test_a_lone_bad_text_is_tried_once(bench: Bench, encoder: str, breaks: list[int]) -> None:
    """There is nobody to tell it apart from."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, BAD))
    assert isinstance(runner.step()[-1], TaskBroke)
    assert breaks == [1]
    assert bench.meter.used[0, 1, 0, 1].tokens_in > 0, "the model had begun to read it"


def test_batches_are_bounded(bench: Bench, encoder: str, breaks: list[int]) -> None:
    """The oldest task, and others as long as they fit; one larger than a batch goes alone; nobody waits for ever."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=3)
    for s, count in ((1, 2), (2, 2), (3, 1), (4, 5)):
        runner.start(task(s, encoder, *["a"] * count))
    ended = []
    while runner.busy():
        ended.append([event.name[1] for event in runner.step() if isinstance(event, TaskEnded)])
    assert (ended, breaks) == ([[1, 3], [2], [4]], [3, 2, 5])


def test_texts_of_about_one_length_go_together(bench: Bench, encoder: str, breaks: list[int]) -> None:
    """Across tasks, too: a long text does not make padding of short ones, and the oldest task goes whatever its length."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    for s, words in ((1, 200), (2, 1), (3, 180), (4, 2)):
        runner.start(task(s, encoder, " ".join(["sea"] * words)))
    ended = [[event.name[1] for event in runner.step() if isinstance(event, TaskEnded)] for _ in range(2)]
    assert ended == [[1, 3], [2, 4]]


def test_a_task_that_left_is_not_run(bench: Bench, encoder: str) -> None:
    """Between steps tasks leave without an event."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, "a"))
    runner.start(task(2, encoder, "b"))
    runner.stop((0, 1, 0, 1))
    runner.stop((0, 9, 0, 1))
    assert set(vectors(runner.step())) == {(2, 0)}


@pytest.mark.parametrize("wrong", ["decoder", "nowhere"])
def test_a_model_that_cannot_be_had_breaks_the_attempt(bench: Bench, decoder: str, wrong: str) -> None:
    """Another node may have it: the scheduler tries again, and no item is answered here."""
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, decoder if wrong == "decoder" else "0" * 64, "a", "b"))
    (event,) = bench.finish(runner)
    assert isinstance(event, TaskBroke)
    assert event.error.code == "model_unavailable"


def test_a_model_that_never_fits_here_may_fit_elsewhere(make_residents: Any, encoder: str) -> None:
    """No attempt here can mend it, but a larger device may: the scheduler is told."""
    small = Bench(make_residents(budget=1000))
    runner = EmbedRunner(small.models, small.meter, batch_texts=64)
    runner.start(task(1, encoder, "a", "b"))
    events = small.finish(runner)
    assert [(event.name[1], event.error.code) for event in events if isinstance(event, TaskBroke)] == [
        (1, "never_fits")
    ]
    assert not vectors(events)


def test_work_waits_while_its_model_is_loaded(make_residents: Any, encoder: str) -> None:
    """Nothing happens meanwhile and nothing is lost; those who wait hear of the bytes read, those who join later too."""
    bench = Bench(make_residents())
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, "a"))
    assert (runner.step(), runner.busy()) == ([], True)
    runner.start(task(2, encoder, "b"))
    assert set(vectors(bench.finish(runner))) == {(1, 0), (2, 0)}
    assert bench.loading[0][1:3] == (encoder, 0)
    assert bench.loading[-1].done == bench.loading[-1].of > 0
    assert bench.meter.loading_seconds > 0


def test_work_waits_for_room(make_residents: Any, decoder: str, encoder: str) -> None:
    """While another model in use leaves no room it is told so, with the numbers; after that it runs."""
    sizes = {}
    for model in (decoder, encoder):
        alone = Bench(make_residents())
        alone.load(model)
        sizes[model] = alone.residents.resident_bytes
    bench = Bench(make_residents(budget=max(sizes.values()) + min(sizes.values()) // 2))
    bench.load(decoder)
    bench.models.reserve(decoder)
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, "a"))
    for _ in range(2):
        bench.turn()
        assert (runner.step(), runner.busy()) == ([], True)
    waiting = [event for event in bench.told if isinstance(event, Waiting)]
    assert [(event.names, event.model, event.rule) for event in waiting] == [(((0, 1, 0, 1),), encoder, "memory")]
    assert waiting[0].need > waiting[0].have > 0
    bench.models.release(decoder)
    assert set(vectors(bench.finish(runner))) == {(1, 0)}


def test_an_error_of_ours_travels_as_it_is(bench: Bench, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's own refusal of a text keeps its words."""

    def embed(self: Encoder, texts: Sequence[str]) -> list[list[float]]:
        raise EngineFailed(problem="an embedding is not finite")

    monkeypatch.setattr(Encoder, "embed", embed)
    runner = EmbedRunner(bench.models, bench.meter, batch_texts=64)
    runner.start(task(1, encoder, "a"))
    (error,) = [event.error for event in runner.step() if isinstance(event, TaskBroke)]
    assert "an embedding is not finite" in str(error)
