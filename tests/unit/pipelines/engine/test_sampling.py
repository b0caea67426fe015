"""Tokens are drawn from the distribution that the request describes, by the request's own seed, in whatever company."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmos.pipelines.engine.sampling import Draw, Sampler, _race_of_all, _race_of_candidates, candidates, draw_tokens
from llmos.pipelines.engine.variates import exponential_variates, key_of
from llmos.schemas.tasks import GenerateInput

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]))


def sampler(prompt: Sequence[int] = (), choice: int = 0, **fields: Any) -> Sampler:
    return Sampler(GenerateInput(prompt="", **fields), prompt, choice)


def draw(logits: torch.Tensor, one: Sampler) -> Draw:
    (drawn,) = draw_tokens(logits[None], [one])
    assert drawn is not None
    return drawn


def draws(count: int, **fields: Any) -> Counter[int]:
    one, drawn = sampler(max_tokens=8192, **fields), []
    for _ in range(count):
        drawn.append(draw(LOGITS, one).token)
        one.add(drawn[-1])
    return Counter(drawn)


def test_temperature_zero_takes_the_likeliest() -> None:
    """Without temperature there is no chance."""
    assert draws(20) == {1: 20}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.6}, {1, 3}),
        ({"top_p": 0.71}, {1, 3, 4}),
        ({"top_p": 0.01}, {1}),
        ({"top_k": 3, "top_p": 0.5}, {1, 3}),
        ({"min_p": 0.3}, {1, 3, 4}),
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.3, "top_k": 2}, {1, 3}),
        ({"top_k": 1_000_000}, {0, 1, 2, 3, 4}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_only_what_is_kept_is_drawn(fields: dict[str, float], kept: set[int]) -> None:
    """top_k, top_p and min_p leave out the unlikely, and everything kept turns up."""
    assert set(draws(300, temperature=1.0, **fields)) == kept


@pytest.mark.parametrize("fields", [{}, {"top_k": 4}], ids=["all", "candidates"])
def test_frequencies_follow_the_temperature(fields: dict[str, Any]) -> None:
    """At temperature 0.5 the odds are the squares; 4,000 draws lie within four standard deviations."""
    count = 4000
    odds = torch.softmax(LOGITS / 0.5, 0)
    if fields:
        odds[2] = 0.0
        odds /= odds.sum()
    drawn = draws(count, temperature=0.5, seed=3, **fields)
    for token, p in enumerate(odds.tolist()):
        assert abs(drawn[token] - count * p) <= 4 * (count * p * (1 - p)) ** 0.5


def test_equal_seeds_draw_equal_tokens() -> None:
    """The seed decides, another one draws otherwise, and the k-th choice draws with the k-th seed from there."""

    def drawn(seed: int, choice: int = 0) -> list[int]:
        one, tokens = sampler(temperature=1.0, seed=seed, choice=choice), []
        for _ in range(30):
            tokens.append(draw(LOGITS, one).token)
            one.add(tokens[-1])
        return tokens

    assert drawn(7) == drawn(7) == drawn(5, 2)
    assert drawn(7) != drawn(8)
    assert drawn(2**63 - 1) == drawn(2**63 - 1)
    assert drawn(2**63 - 1, 127) == drawn(2**63 - 1, 127)


def test_a_tiny_temperature_does_not_overflow() -> None:
    """Next to nothing is the likeliest token, not an error."""
    assert draws(20, temperature=1e-30) == {1: 20}
    assert draws(20, temperature=5e-324) == {1: 20}
    assert draws(20, temperature=5e-324, top_k=3) == {1: 20}


def test_a_repeated_draw_is_the_same() -> None:
    """Until its token is taken: a step that failed for others may be done again."""
    one = sampler(temperature=1.0)
    assert len({draw(LOGITS, one).token for _ in range(20)}) == 1


def test_variates_are_exponential_and_independent() -> None:
    """Mean and variance of 1, the share below a median's value, no correlation between tokens, places and seeds."""
    tokens = np.arange(100_000, dtype=np.uint32)
    rows = [exponential_variates(tokens, key_of(seed, place)) for seed, place in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for row in rows:
        assert row.min() > 0
        assert abs(row.mean() - 1) < 0.02
        assert abs(row.var() - 1) < 0.06
        assert abs((row < np.log(2)).mean() - 0.5) < 0.01
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(rows) - np.eye(4)).max() < 0.02
    across = np.array([exponential_variates(tokens[:1], key_of(7, place))[0] for place in range(5000)])
    assert abs(across.mean() - 1) < 0.1
    assert abs(np.corrcoef(across[1:], across[:-1])[0, 1]) < 0.08
    few = exponential_variates(np.array([5, 99_999], dtype=np.uint32), key_of(0, 1))
    assert few.tolist() == [rows[1][5], rows[1][99_999]]


def reference(fields: dict[str, Any], prompt: list[int], logits: torch.Tensor) -> torch.Tensor:
    """The probabilities that `transformers` draws from, with its own processors in its own order."""
    steps: list[Any] = []
    if "repetition_penalty" in fields:
        steps.append(RepetitionPenaltyLogitsProcessor(fields["repetition_penalty"]))
    steps.append(TemperatureLogitsWarper(fields["temperature"]))
    if "top_k" in fields:
        steps.append(TopKLogitsWarper(fields["top_k"]))
    if "top_p" in fields:
        steps.append(TopPLogitsWarper(fields["top_p"]))
    if "min_p" in fields:
        steps.append(MinPLogitsWarper(fields["min_p"]))
    scores = LogitsProcessorList(steps)(torch.tensor([prompt]), logits[None].clone())
    probabilities: torch.Tensor = scores.softmax(-1)[0]
    return probabilities


def ours(fields: dict[str, Any], prompt: list[int], logits: torch.Tensor) -> torch.Tensor:
    """The probabilities that a draw here follows."""
    one, row = sampler(prompt, **fields), logits.clone()
    if one.penalties is not None:
        one.penalties.apply(row)
    scores = ((row - row.max()) / one.temperature)[None]
    if not (one.top_k or one.top_p < 1.0 or one.min_p):
        return scores[0].softmax(0)
    values, tokens, kept = candidates(scores, [one])
    masses = torch.zeros_like(row).scatter_(0, tokens[0], values[0].exp() * kept[0])
    return masses / masses.sum()


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0], ids=["flat", "usual", "peaked"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.3},
        {"top_p": 0.95},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"min_p": 0.0001},
        {"top_k": 50, "top_p": 0.9},
        {"top_k": 900, "top_p": 0.5, "min_p": 0.02},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7, "top_p": 0.9},
    ],
)
def test_the_distribution_is_that_of_transformers(fields: dict[str, Any], scale: float) -> None:
    """Penalty, temperature, top_k, top_p and min_p, alone and together, on flat and on peaked logits of 2,000 tokens."""
    generator = torch.Generator().manual_seed(5)
    for temperature in (0.7, 1.0, 1.8):
        logits = torch.randn(2000, generator=generator) * scale
        prompt = torch.randint(0, 2000, (60,), generator=generator).tolist()
        asked = {"temperature": temperature, **fields}
        torch.testing.assert_close(ours(asked, prompt, logits), reference(asked, prompt, logits), atol=2e-6, rtol=1e-3)


def test_what_ties_with_the_last_is_kept() -> None:
    """So that the draw does not depend on how equal numbers are sorted; of top_k `transformers` does the same."""
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    assert ours({"temperature": 1.0, "top_k": 2}, [], logits).nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert ours({"temperature": 1.0, "top_p": 0.6}, [], logits).nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert ours({"temperature": 1.0, "top_p": 0.4}, [], logits).nonzero()[:, 0].tolist() == [1]
    flat = torch.zeros(5000)
    assert int((ours({"temperature": 1.0, "top_p": 0.2}, [], flat) > 0).sum()) == 5000
    assert int((ours({"temperature": 1.0, "top_k": 2}, [], flat) > 0).sum()) == 5000


def test_penalties_on_what_the_output_has() -> None:
    """Presence once, frequency each time, of the output alone; repetition of the prompt, too, and before them."""
    one = sampler([0, 3], presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    for token in (1, 2, 1):
        one.add(token)
    assert one.penalties is not None
    row = torch.tensor([4.0, 4.0, -1.0, -2.0, 5.0])
    one.penalties.apply(row)
    assert row.tolist() == [2.0, 4.0 / 2 - 0.5 - 2 * 0.25, -1.0 * 2 - 0.5 - 0.25, -4.0, 5.0]


def test_a_penalty_moves_a_greedy_choice() -> None:
    """Each token in its turn, when those before it are punished enough."""
    one, tokens = sampler(presence_penalty=2.0), []
    for _ in range(5):
        tokens.append(draw(LOGITS, one).token)
        one.add(tokens[-1])
    assert tokens[:3] == [1, 3, 4]


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1.0}, {"temperature": 2.0, "top_k": 3, "presence_penalty": 1.5}]
)
def test_log_probabilities_are_those_of_the_raw_logits(fields: dict[str, Any]) -> None:
    """Whatever temperature and penalties do to the choice; the likeliest first, as many as were asked for."""
    one = sampler([1], logprobs=2, **fields)
    one.add(1)
    drawn = draw(LOGITS + 7.0, one)
    assert drawn.logprob == pytest.approx(float(LOGITS[drawn.token]), abs=1e-5)
    assert [token for token, _ in drawn.top] == [1, 3]
    assert [value for _, value in drawn.top] == pytest.approx([math.log(0.4), math.log(0.3)], abs=1e-5)
    assert draw(LOGITS, sampler(logprobs=0)).top == []
    assert len(draw(LOGITS, sampler(logprobs=20)).top) == 5
    masked = torch.tensor([0.0, -math.inf, 1.0])
    assert [token for token, _ in draw(masked, sampler(logprobs=3)).top] == [2, 0]


@settings(max_examples=100, deadline=None)
@given(
    top_p=st.floats(0.05, 1.0),
    min_p=st.sampled_from([0.0, 0.001, 0.1]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_the_short_way_finds_the_same_winners(
    top_p: float, min_p: float, scale: float, dtype: torch.dtype, seed: int
) -> None:
    """Who wins among all tokens and is kept is who wins among those kept; else the kept ones race alone."""
    logits = (torch.randn(4, 700, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype).float()
    scores = logits - logits.amax(-1, keepdim=True)
    samplers = [sampler(temperature=1.0, top_p=top_p, min_p=min_p, seed=seed + i) for i in range(4)]
    short, long = _race_of_all(scores, samplers), _race_of_candidates(scores, samplers)
    assert [token for token in short if token is not None] == [
        other for token, other in zip(short, long, strict=True) if token is not None
    ]
    _, tokens, kept = candidates(scores, samplers)
    for row, token in enumerate(short):
        assert token is not None or long[row] in tokens[row][kept[row]].tolist()


WISHES = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.2, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.01, "logprobs": 3},
    {"temperature": 1.0, "top_k": 300, "top_p": 0.9},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 1.0, "presence_penalty": 1.0},
    {"logprobs": 2},
]


@settings(max_examples=60, deadline=None)
@given(
    wishes=st.lists(st.sampled_from(WISHES), min_size=1, max_size=8),
    scale=st.sampled_from([0.2, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_the_company_changes_nothing(wishes: list[dict[str, Any]], scale: float, dtype: torch.dtype, seed: int) -> None:
    """From the same logits, a sequence gets the same draw alone and in any batch."""
    logits = (torch.randn(len(wishes), 900, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)

    def samplers() -> list[Sampler]:
        made = [sampler([1, 2, 3], seed=seed + i, **fields) for i, fields in enumerate(wishes)]
        for one in made:
            one.add(4)
        return made

    before = logits.clone()
    together = draw_tokens(logits, samplers())
    alone = [draw_tokens(logits[i : i + 1], [one])[0] for i, one in enumerate(samplers())]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0}], ids=["greedy", "drawn"])
def test_a_row_that_is_not_finite_has_no_token(bad: float, fields: dict[str, Any]) -> None:
    """And those beside it have theirs."""
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    drawn = draw_tokens(logits, [sampler(**fields) for _ in range(3)])
    assert drawn[1] is None
    assert drawn[0] == drawn[2] == draw(LOGITS, sampler(**fields))
    assert draw_tokens(torch.full((1, 5), -math.inf), [sampler()]) == [None]


class _Calls(TorchDispatchMode):
    """Counts what torch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_greedy_batch_is_one_pass_over_the_logits() -> None:
    """However many sequences: the largest of each row, which finds NaN as well."""
    samplers = [sampler() for _ in range(16)]
    with _Calls() as calls:
        draw_tokens(torch.randn(16, 100), samplers)
    assert [name for name in calls.names if "max" in name] == ["aten.max.dim"]
    assert not any(name.startswith(("aten.argmax", "aten._softmax", "aten.topk", "aten.sort")) for name in calls.names)
