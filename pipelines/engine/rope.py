"""Rotary position embeddings: angles from a model's configuration, and their application to queries and keys.

Su et al. 2021, arXiv:2104.09864, in the half-split form of the Llama checkpoints; the scalings `linear`, `dynamic`,
`llama3` and `yarn` (Peng et al. 2023, arXiv:2309.00071) as `transformers` computes them.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch

from llmos.pipelines.engine.configuration import ConfigReader

Angles: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of some positions."""


class Rope(NamedTuple):
    """What decides the angles."""

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    whole_range: bool = True
    """yarn: the range that is interpolated is widened to whole dimensions."""
    amplitude: float = 1.0
    """Cosines and sines are multiplied by it."""


def read_rope(config: ConfigReader) -> Rope:
    """From `rope_parameters` (transformers 5), else `rope_theta` and `rope_scaling` (before). Raises `ModelDamaged`."""
    group = config.group("rope_parameters")
    theta = (group or config).number("rope_theta", config.number("rope_theta", 10_000.0))
    group = group or config.group("rope_scaling")
    if group is None:
        return Rope(theta)
    kind = group.text("rope_type", group.text("type", "default"))
    if group.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)) != 1.0:
        raise config.damaged("a partial rotary embedding is not supported")
    if kind in ("default", "dynamic"):
        # dynamic ones differ only beyond max_position_embeddings, and no sequence here is longer than that
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
    if kind == "yarn":
        return _read_yarn(config, group, theta)
    raise config.damaged(
        f"rotary embeddings of type {kind!r} are not supported; default, linear, dynamic, llama3 and yarn are"
    )


def _read_yarn(config: ConfigReader, group: ConfigReader, theta: float) -> Rope:
    longest = config.integer("max_position_embeddings", 2048)
    original = group.integer("original_max_position_embeddings", longest)
    factor = group.number("factor", longest / original)
    amplitude = _yarn_amplitude(factor)
    if group.raw("mscale") and group.raw("mscale_all_dim"):
        amplitude = _yarn_amplitude(factor, group.number("mscale"))
        amplitude /= _yarn_amplitude(factor, group.number("mscale_all_dim"))
    return Rope(
        theta,
        "yarn",
        factor,
        original_context=original,
        fast_turns=group.number("beta_fast", 32.0),
        slow_turns=group.number("beta_slow", 1.0),
        whole_range=group.flag("truncate", True),
        amplitude=group.number("attention_factor", amplitude),
    )


def _yarn_amplitude(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Radians per position, (head_dim / 2,), in float32."""
    base = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    if rope.scaling == "linear":
        return base / rope.factor
    if rope.scaling == "llama3":
        turns = rope.original_context * base / (2 * math.pi)
        low, high = rope.low_frequency_factor, rope.high_frequency_factor
        # slow ones are stretched by the factor, fast ones kept, those between interpolated
        kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    elif rope.scaling == "yarn":
        kept = 1.0 - _yarn_ramp(rope, head_dim)
    else:
        return base
    return (1 - kept) * base / rope.factor + kept * base


def _yarn_ramp(rope: Rope, head_dim: int) -> torch.Tensor:
    """How far each dimension is stretched: 0 for those that turn often within the original context, 1 for the slow ones."""

    def dimension(turns: float) -> float:
        return head_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.fast_turns), dimension(rope.slow_turns)
    if rope.whole_range:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as transformers does, so that nothing is divided by zero
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)


class Rotation:
    """Turns queries and keys to their positions. Angles are made for the positions of a step, no table is kept."""

    def __init__(self, rope: Rope, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        both = frequencies(rope, head_dim).repeat(2)
        half = head_dim // 2
        self._frequencies = both.to(device)
        self._cosine_scale = torch.full((head_dim,), rope.amplitude, device=device)
        self._sine_scale = self._cosine_scale.clone()
        """Negative in the first half, so that rotating is one roll."""
        self._sine_scale[:half] *= -1
        self._half = half
        self._dtype = dtype

    def at(self, positions: torch.Tensor) -> Angles:
        """Cosines and sines of `positions` (n,), each (n, 1, head_dim), to be used in every layer."""
        angles = positions[:, None, None] * self._frequencies
        return (angles.cos() * self._cosine_scale).to(self._dtype), (angles.sin() * self._sine_scale).to(self._dtype)

    def rotate(self, heads: torch.Tensor, angles: Angles) -> torch.Tensor:
        """Turns `heads` (n, heads, head_dim) by the angles of their positions."""
        return heads * angles[0] + heads.roll(self._half, dims=-1) * angles[1]
