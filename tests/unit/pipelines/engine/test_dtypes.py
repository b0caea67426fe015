"""In what dtype a model runs, by what its files hold and what the device is fast in."""

from __future__ import annotations

import pytest
import torch

from llmos.pipelines.engine.dtypes import choose_dtype

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
LARGE, SMALL = 386_000_000, 1_300_000


@pytest.mark.parametrize(
    ("stored", "parameters", "usual", "fast", "wanted"),
    [
        # a CPU with instructions for bfloat16
        ("float32", LARGE, F32, {F32, BF16}, F32),
        ("float32", SMALL, F32, {F32, BF16}, F32),
        ("bfloat16", LARGE, F32, {F32, BF16}, BF16),
        ("bfloat16", SMALL, F32, {F32, BF16}, F32),
        ("float16", LARGE, F32, {F32, BF16}, BF16),
        ("float16", SMALL, F32, {F32, BF16}, F32),
        # a CPU without
        ("bfloat16", LARGE, F32, {F32}, F32),
        ("float16", LARGE, F32, {F32}, F32),
        # accelerators
        ("float16", LARGE, BF16, {F32, BF16, F16}, F16),
        ("bfloat16", LARGE, F16, {F32, F16}, F16),
        ("float32", LARGE, BF16, {F32, BF16, F16}, BF16),
        # what is neither
        ("int8", LARGE, F32, {F32, BF16}, F32),
        ("", 0, F32, {F32, BF16}, F32),
    ],
)
def test_choice(stored: str, parameters: int, usual: torch.dtype, fast: set[torch.dtype], wanted: torch.dtype) -> None:
    """Halves stay halves where the device is fast in one and the model large; all else is what the device does."""
    assert choose_dtype(stored, parameters, usual, fast) == wanted
