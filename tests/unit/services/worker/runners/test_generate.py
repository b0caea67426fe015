"""Generation with the shipped decoder: sequences share steps, join and leave between them, fail each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.residents import ResidentModels
from llmos.schemas.errors import NotFinite
from llmos.schemas.tasks import ChatMessage, GenerateInput, GenerateOutput
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    ItemEnded,
    Produced,
    TaskBroke,
    TaskEnded,
)
from llmos.services.worker.runners.generate import GenerateRunner
from tests.unit.services.worker.runners.making import Bench

PROMPT = "ROMEO:"


def task(s: int, model: str, prompt: str | list[str] = PROMPT, max_tokens: int = 6, **fields: Any) -> Assignment:
    return Assignment((0, s, 0, 1), "generate", model, GenerateInput(prompt=prompt, max_tokens=max_tokens, **fields))


def outcomes(events: Sequence[Event]) -> dict[tuple[int, int], GenerateOutput | str]:
    """(s, item) → output, or the code of its error."""
    found: dict[tuple[int, int], GenerateOutput | str] = {}
    for event in events:
        if isinstance(event, ItemEnded):
            assert (event.name[1], event.item) not in found, "an item ends once"
            found[event.name[1], event.item] = (
                event.error.code if event.error else msgspec.msgpack.decode(event.output, type=GenerateOutput)
            )
    return found


def streamed(events: Sequence[Event], s: int, item: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Produced) and (e.name[1], e.item) == (s, item))


def streamed_text(output: GenerateOutput | str) -> str:
    assert isinstance(output, GenerateOutput)
    return output.text


def test_what_is_streamed_is_the_output(bench: Bench, decoder: str) -> None:
    """Events come gap-free, their texts joined are the output, and the measurements are those of the task."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, max_tokens=20))
    events = bench.finish(runner)
    output = outcomes(events)[1, 0]
    assert isinstance(output, GenerateOutput)
    assert (output.text, output.tokens, output.finish) == (streamed(events, 1), 20, "length")
    assert (type(events[0]), type(events[-1])) == (Began, TaskEnded)
    told = [event for event in events if isinstance(event, Produced)]
    assert [event.first_token for event in told] == [sum(e.tokens for e in told[:i]) for i in range(len(told))]
    (ended,) = [event for event in events if isinstance(event, ItemEnded)]
    key = (decoder, "generate")
    assert bench.meter.tasks[key] == 1
    assert (bench.meter.tokens_in[key], bench.meter.tokens_out[key]) == (ended.tokens_in, 20)
    assert ended.tokens_in > 0
    assert isinstance(events[-1], TaskEnded)
    assert events[-1].device_seconds == pytest.approx(bench.meter.busy_seconds[key])
    assert events[-1].precision == "float32", "as the CPU computes it, whatever the files hold"
    meter = bench.meter
    assert (meter.prefill_tokens[key], meter.decode_steps[key], meter.decode_tokens[key]) == (ended.tokens_in, 19, 19)
    assert 0 < meter.prefill_seconds[key] + meter.decode_seconds[key] <= meter.busy_seconds[key]


def test_together_as_alone(bench: Bench, decoder: str) -> None:
    """Tasks that share steps produce what each would alone, and share the device's time between them."""
    prompts = {1: PROMPT, 2: "The king is", 3: "O"}
    alone = {}
    for s, prompt in prompts.items():
        runner = GenerateRunner(bench.models, bench.meter)
        runner.start(task(s, decoder, prompt))
        alone |= outcomes(bench.finish(runner))
    before = bench.meter.busy_seconds[decoder, "generate"]
    runner = GenerateRunner(bench.models, bench.meter)
    for s, prompt in prompts.items():
        runner.start(task(s, decoder, prompt))
    events = bench.finish(runner)
    assert outcomes(events) == alone
    seconds = sum(event.device_seconds for event in events if isinstance(event, TaskEnded))
    assert seconds == pytest.approx(bench.meter.busy_seconds[decoder, "generate"] - before)


def test_more_than_there_are_slots(bench: Bench, decoder: str) -> None:
    """Items wait inside for a slot and join in order of arrival; every one ends, and the model is free afterwards."""
    runner = GenerateRunner(bench.models, bench.meter)
    for s in range(3):
        runner.start(task(s, decoder, [PROMPT] * 3, max_tokens=2 + s))
    events = bench.finish(runner)
    assert set(outcomes(events)) == {(s, item) for s in range(3) for item in range(3)}
    assert [event.name[1] for event in events if isinstance(event, Began)] == [0, 1, 2]
    assert sorted(event.name[1] for event in events if isinstance(event, TaskEnded)) == [0, 1, 2]
    (resident,) = [model for model in bench.residents.residents() if model.model == decoder]
    assert resident.active == 0


def test_one_bad_prompt_fails_only_itself(bench: Bench, decoder: str) -> None:
    """A prompt longer than the model's context ends with an error; its siblings and other tasks go on."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, [PROMPT, "word " * 400, PROMPT]))
    runner.start(task(2, decoder))
    found = outcomes(bench.finish(runner))
    assert found.pop((1, 1)) == "too_long"
    assert {type(output) for output in found.values()} == {GenerateOutput}
    assert len(set(map(str, found.values()))) == 1, "the same prompt, the same continuation"


def test_a_sequence_that_breaks_on_its_way_breaks_its_attempt_alone(
    bench: Bench, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another attempt may mend is no outcome; the neighbours in the batch go on."""
    original = Engine.step

    def step(self: Engine) -> Any:
        return [
            event._replace(error=NotFinite(), finish="") if event.key == ((0, 1, 0, 1), 1) and event.finish else event
            for event in original(self)
        ]

    monkeypatch.setattr(Engine, "step", step)
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, n=2))
    runner.start(task(2, decoder))
    events = bench.finish(runner)
    assert [(e.name[1], e.error.code) for e in events if isinstance(e, TaskBroke)] == [(1, "not_finite")]
    assert [e.name[1] for e in events if isinstance(e, TaskEnded)] == [2]
    assert isinstance(outcomes(events)[2, 0], GenerateOutput)
    (resident,) = [model for model in bench.residents.residents() if model.model == decoder]
    assert resident.active == 0


def test_several_outputs_of_a_prompt(bench: Bench, decoder: str) -> None:
    """The k-th is what the seed `seed + k` gives alone; the prompt is read and counted once, also beyond the slots."""
    runner = GenerateRunner(bench.models, bench.meter)
    for k in range(6):
        runner.start(task(k, decoder, temperature=1.0, seed=30 + k))
    alone = outcomes(bench.finish(runner))
    read = bench.meter.prefill_tokens[decoder, "generate"]
    runner.start(task(10, decoder, temperature=1.0, seed=30, n=6))
    events = bench.finish(runner)
    assert [outcomes(events)[10, k] for k in range(6)] == [alone[k, 0] for k in range(6)]
    assert [streamed(events, 10, k) for k in range(6)] == [streamed_text(alone[k, 0]) for k in range(6)]
    ended = {event.item: event.tokens_in for event in events if isinstance(event, ItemEnded)}
    assert [ended[k] for k in range(6)] == [read // 6, 0, 0, 0, 0, 0]
    assert bench.meter.prefill_tokens[decoder, "generate"] - read <= 2 * read // 6


def test_log_probabilities_come_with_the_output(bench: Bench, decoder: str) -> None:
    """One for each token, with the likeliest beside it; a greedy choice is the likeliest itself."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, logprobs=3))
    output = outcomes(bench.finish(runner))[1, 0]
    assert isinstance(output, GenerateOutput)
    assert len(output.logprobs) == output.tokens == 6
    assert "".join(one.text for one in output.logprobs) == output.text
    for one in output.logprobs:
        assert len(one.top) == 3
        assert (one.top[0].token, one.top[0].text, one.top[0].logprob) == (one.token, one.text, one.logprob)
        assert 0 >= one.top[0].logprob >= one.top[1].logprob >= one.top[2].logprob


def test_a_conversation_needs_a_template(bench: Bench, decoder: str) -> None:
    """The shipped decoder has none: that is the client's to know, and no attempt mends it."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, "", messages=[ChatMessage(role="user", content="hello")], n=2))
    assert outcomes(bench.finish(runner)) == {(1, 0): "no_chat_template", (1, 1): "no_chat_template"}


def test_small_ones_pass_a_large_one_for_a_bounded_time(
    shared: ResidentModels, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no memory for a long sequence, short ones join before it; after two seconds they wait until it is in."""
    now = 100.0
    bench = Bench(shared, clock=lambda: now)
    loaded = bench.models.want(decoder, [])
    assert loaded is not None
    assert loaded.engine is not None
    engine = loaded.engine
    monkeypatch.setattr(engine, "cache_bytes", 3 * 128 * engine.cache.token_bytes)
    runner = GenerateRunner(bench.models, bench.meter)
    began: list[int] = []

    def step() -> None:
        bench.turn()
        began.extend(event.name[1] for event in runner.step() if isinstance(event, Began))

    runner.start(task(1, decoder, max_tokens=60))
    runner.start(task(2, decoder, max_tokens=200))
    runner.start(task(3, decoder, max_tokens=3))
    step()
    assert began == [1, 3]
    now += 1.9
    runner.start(task(4, decoder, max_tokens=3))
    step()
    assert began == [1, 3, 4]
    now += 0.2
    runner.start(task(5, decoder, max_tokens=3))
    for _ in range(20):
        step()
    assert began == [1, 3, 4]
    began.extend(event.name[1] for event in bench.finish(runner) if isinstance(event, Began))
    assert began == [1, 3, 4, 2, 5]


def test_cancelled_between_steps(bench: Bench, decoder: str) -> None:
    """A task that left brings no more events; its slots are free, its neighbour is undisturbed, and the model is let go."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(2, decoder, max_tokens=30))
    expected = outcomes(bench.finish(runner))
    runner.start(task(1, decoder, [PROMPT] * 6, max_tokens=200))
    runner.start(task(2, decoder, max_tokens=30))
    for _ in range(3):
        runner.step()
    runner.stop((0, 1, 0, 1))
    runner.stop((0, 9, 0, 1))
    events = bench.finish(runner)
    assert {event.name[1] for event in events} == {2}  # type: ignore[union-attr]
    assert outcomes(events) == expected
    runner.start(task(3, decoder, max_tokens=200))
    runner.step()
    runner.stop((0, 3, 0, 1))
    assert not runner.busy()
    (resident,) = [model for model in bench.residents.residents() if model.model == decoder]
    assert resident.active == 0


def test_what_a_task_has_used_is_counted_as_it_goes(bench: Bench, decoder: str) -> None:
    """The prompt from the step that begins its prefill, each token as it is told, device time with every step; at the end
    what the outcome says. Several outputs of one prompt read it once."""
    runner = GenerateRunner(bench.models, bench.meter)
    bench.load(decoder)
    runner.start(task(1, decoder, max_tokens=20, n=2))
    used = bench.meter.used[0, 1, 0, 1]
    assert (used.tokens_in, used.tokens_out, used.device_seconds) == (0, 0, 0.0)
    events: list[Event] = []
    while runner.busy():
        before = used.device_seconds
        events += runner.step()
        assert used.tokens_in > 0
        assert used.tokens_out == sum(event.tokens for event in events if isinstance(event, Produced))
        assert used.device_seconds > before
    ended = [event for event in events if isinstance(event, ItemEnded)]
    assert used.tokens_in == sum(event.tokens_in for event in ended)
    assert used.tokens_out == sum(event.tokens_out for event in ended) == 40
    (last,) = [event for event in events if isinstance(event, TaskEnded)]
    assert used.device_seconds == last.device_seconds


def test_a_stopped_task_may_come_again(bench: Bench, decoder: str) -> None:
    """Another attempt of the same name begins from the start."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder))
    expected = outcomes(bench.finish(runner))
    runner.start(task(1, decoder))
    runner.step()
    runner.stop((0, 1, 0, 1))
    runner.start(task(1, decoder))
    events = bench.finish(runner)
    assert (outcomes(events), type(events[0])) == (expected, Began)


def test_stop_strings_end_an_item(bench: Bench, decoder: str) -> None:
    """Neither the stream nor the output shows the string."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, decoder, max_tokens=40))
    text = streamed(bench.finish(runner), 1)
    stop = text[5:8]
    runner.start(task(2, decoder, max_tokens=40, stop=[stop]))
    events = bench.finish(runner)
    output = outcomes(events)[2, 0]
    assert isinstance(output, GenerateOutput)
    assert output.text == streamed(events, 2) == text[: text.index(stop)]
    assert output.finish == "stop"


@pytest.mark.parametrize("wrong", ["encoder", "nowhere"])
def test_a_model_that_cannot_be_had_breaks_the_attempt(bench: Bench, decoder: str, encoder: str, wrong: str) -> None:
    """The scheduler tries again elsewhere; tasks of other models go on in the same step."""
    runner = GenerateRunner(bench.models, bench.meter)
    runner.start(task(1, encoder if wrong == "encoder" else "0" * 64, [PROMPT, PROMPT]))
    runner.start(task(2, decoder, max_tokens=2))
    events = bench.finish(runner)
    broke = [event for event in events if isinstance(event, TaskBroke)]
    assert [(event.name[1], event.error.code) for event in broke] == [(1, "model_unavailable")]
    assert set(outcomes(events)) == {(2, 0)}


def test_a_model_that_never_fits_here_may_fit_elsewhere(make_residents: Any, decoder: str) -> None:
    """No attempt here can mend it, but a larger device may: the scheduler is told."""
    small = Bench(make_residents(budget=1000))
    runner = GenerateRunner(small.models, small.meter)
    runner.start(task(1, decoder, [PROMPT, PROMPT]))
    events = small.finish(runner)
    assert [(event.name[1], event.error.code) for event in events if isinstance(event, TaskBroke)] == [
        (1, "never_fits")
    ]
    assert not outcomes(events)


def test_loading_is_told_to_all_who_wait(make_residents: Any, decoder: str) -> None:
    """Once, to the tasks of this model, up to the last byte; loading is no service time."""
    fresh = Bench(make_residents())
    runner = GenerateRunner(fresh.models, fresh.meter)
    runner.start(task(1, decoder, max_tokens=1))
    runner.start(task(2, decoder, max_tokens=1))
    fresh.finish(runner)
    assert {name for word in fresh.loading for name in word.names} == {(0, 1, 0, 1), (0, 2, 0, 1)}
    assert fresh.loading[-1].done == fresh.loading[-1].of > 0
    assert fresh.meter.loading_seconds > 0


def test_who_joins_after_one_that_could_not_runs(bench: Bench, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task of a round breaks before it is in, with nobody in the batch: the next one joins and is stepped, its
    model reserved as long."""
    real = Engine.open

    def broken(self: Engine, prompt: Any, choices: int = 1) -> Any:
        if prompt == "bad":
            raise RuntimeError("no kernel for this")
        return real(self, prompt, choices)

    monkeypatch.setattr(Engine, "open", broken)
    runner = GenerateRunner(bench.models, bench.meter)
    bench.load(decoder)
    runner.start(task(1, decoder, prompt="bad"))
    runner.start(task(2, decoder))
    events = bench.finish(runner)
    assert [event.name[1] for event in events if isinstance(event, TaskBroke)] == [1]
    assert streamed_text(outcomes(events)[2, 0])
    assert not bench.residents.in_use
