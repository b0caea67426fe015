"""Rotary position embeddings: angles from a model's configuration, and their application to queries and keys.

Su et al. 2021, arXiv:2104.09864, in the half-split form of the Llama checkpoints; the scalings `linear` and `llama3` as
`transformers` computes them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from llmos.pipelines.engine.configuration import ConfigReader


class Rope(NamedTuple):
    """What decides the angles."""

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192


def read_rope(config: ConfigReader) -> Rope:
    """From `rope_parameters` (transformers 5), else `rope_theta` and `rope_scaling` (before). Raises `ModelDamaged`."""
    group = config.group("rope_parameters")
    theta = (group or config).number("rope_theta", config.number("rope_theta", 10_000.0))
    group = group or config.group("rope_scaling")
    if group is None:
        return Rope(theta)
    kind = group.text("rope_type", group.text("type", "default"))
    if group.number("partial_rotary_factor", 1.0) != 1.0:
        raise config.damaged("a partial rotary embedding is not supported")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, group.number("factor"))
    if kind == "llama3":
        return Rope(
            theta,
            kind,
            group.number("factor"),
            group.number("low_freq_factor"),
            group.number("high_freq_factor"),
            group.integer("original_max_position_embeddings"),
        )
    raise config.damaged(f"rotary embeddings of type {kind!r} are not supported; default, linear and llama3 are")


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Radians per position, (head_dim / 2,)."""
    base = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    if rope.scaling == "linear":
        return base / rope.factor
    if rope.scaling != "llama3":
        return base
    turns = rope.original_context * base / (2 * math.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    # slow ones are stretched by the factor, fast ones kept, those between interpolated
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * base / rope.factor + smooth * base


class RopeTable:
    """Cosines and sines of every position of a context, computed once."""

    def __init__(self, rope: Rope, head_dim: int, context: int, device: torch.device, dtype: torch.dtype) -> None:
        angles = torch.arange(context).float()[:, None] * frequencies(rope, head_dim)[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        half = head_dim // 2
        sign = torch.cat((-torch.ones(half), torch.ones(half)))
        self.cosines = angles.cos().to(device, dtype)
        self.sines = (angles.sin() * sign).to(device, dtype)
        """Negative in the first half, so that rotating is one roll."""
        self._half = half

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `positions` (n,), each (n, 1, head_dim), to be used in every layer."""
        return self.cosines[positions].unsqueeze(1), self.sines[positions].unsqueeze(1)

    def rotate(self, heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Turns `heads` (n, heads, head_dim) by the angles of their positions."""
        return heads * angles[0] + heads.roll(self._half, dims=-1) * angles[1]
