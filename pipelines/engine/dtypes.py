"""In what dtype a model runs on a device: a pure choice by what its files hold and what the device is fast in."""

from __future__ import annotations

from collections.abc import Set

import torch

SMALL_PARAMETERS = 8_000_000
"""Below, matrices are so small that float32 is faster on a CPU: a product of 512 × 128 takes 9 µs, in bfloat16 24 µs."""
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(stored: str, parameters: int, usual: torch.dtype, fast: Set[torch.dtype]) -> torch.dtype:
    """The dtype for a model whose files hold `stored` (torch's name), on a device that computes `usual` unless asked.

    Nothing is computed with fewer bits than its files have, except for float16, which may become bfloat16: a CPU with
    instructions for the one and not for the other multiplies it twice as fast as float32, in half of the memory.
    """
    half = _HALVES.get(stored)
    if half is None or parameters < SMALL_PARAMETERS:
        return usual
    if half in fast:
        return half
    if half == torch.float16 and torch.bfloat16 in fast:
        return torch.bfloat16
    return usual
