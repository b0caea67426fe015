"""What the serving benchmark sends: prompts of an exact length, the same arrivals under every policy."""

from __future__ import annotations

import pytest
import tokenizers

from benchmarks.harness import Row
from benchmarks.serving import policies
from benchmarks.serving.models import SHIPPED, big_model, prompts
from benchmarks.serving.pipeline import Outcome


def test_prompts_have_exactly_so_many_tokens() -> None:
    """And are all different, so that no cache of prefixes helps anybody."""
    tokenizer = tokenizers.Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    found = prompts(16, 64)
    assert {len(tokenizer.encode(prompt).ids) for prompt in found} == {64}
    assert len(set(found)) == 16


def test_arrivals_are_the_same_each_time() -> None:
    """In order, about as many as the rate says, with requests of unequal length."""
    planned = policies._planned(20.0, 30.0, 1)
    assert planned == policies._planned(20.0, 30.0, 1)
    assert planned != policies._planned(20.0, 30.0, 2)
    times = [arrival.at for arrival in planned]
    assert times == sorted(times)
    assert 500 < len(times) < 700
    assert len({arrival.task.input.max_tokens for arrival in planned}) > 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("instructions", "dtype"), [(["avx2"], "float32"), (["avx512_bf16", "avx2"], "bfloat16")])
def test_the_big_model_has_the_dtype_that_the_processor_is_fast_in(
    tmp_path: object, instructions: list[str], dtype: str
) -> None:
    """Without instructions for bfloat16 it would be slower in it."""
    assert big_model(tmp_path, instructions).dtype == dtype  # type: ignore[arg-type]


def test_latencies_stand_beside_the_share_that_was_completed() -> None:
    """A policy that drops requests must not look fast; only round-robin has a target."""
    found = {name: Outcome([0.1] * 99 + [0.4], 200, 10.0) for name in policies.BASELINES}
    rows = policies._rows({policies.DEFAULT: Outcome([0.1] * 100, 100, 10.0), **found}, 10.0)
    assert all("completed 100.0% and 50.0%" in row.note for row in rows)
    targets = [row for row in rows if row.target]
    assert [(row.peer, row.ok) for row in targets] == [("round-robin", True)]
    assert isinstance(targets[0], Row)
