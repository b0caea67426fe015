"""A linear layer that keeps its weights in the layout that the CPU reads fastest, where the machine shows that it pays.

oneDNN multiplies a weight that was laid out in blocks once about 1.2 to 2.5 times as fast as a plain one, in float32 and
in bfloat16, at the batch sizes at which tokens are decoded. It is what `torch.compile` with frozen weights does inside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.nn import functional

PACK_ROWS = 16
"""The batch for which weights are laid out; measured, it serves batches of 1 to 256 as well as their own layouts do."""
LEAST_BYTES = {torch.float32: 1 << 20, torch.bfloat16: 1 << 16}
"""Smaller weights stay plain: oneDNN takes 15 µs a call, and plain float32 products of small matrices far less."""
_SAMPLE = (2048, 1024)
_SAMPLE_BYTES = 32 << 20
"""So many bytes of weights in turn, that they come from memory and not from a cache."""
_ROUNDS = 6


class Linear:
    """y = x Wᵀ + b; `weight` is (outputs, inputs), `bias` (outputs,). Packed weights are not kept unpacked."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.packed = can_pack(weight.device, weight.dtype, weight.nbytes) and packing_pays(weight.dtype)
        self.bias = bias
        self._weight = _pack(weight) if self.packed else weight

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What it holds."""
        return (self._weight,) if self.bias is None else (self._weight, self.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs)."""
        if self.packed:
            return _multiply(x, self._weight, self.bias)
        return functional.linear(x, self._weight, self.bias)


def can_pack(device: torch.device, dtype: torch.dtype, size_bytes: int) -> bool:
    """Whether torch has a layout for such a weight there, and it is large enough to gain by it."""
    if device.type != "cpu" or size_bytes < LEAST_BYTES.get(dtype, math.inf):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
@torch.inference_mode()
def packing_pays(dtype: torch.dtype) -> bool:
    """Measured once in a process, in about 0.2 s: whether packed weights are read no slower at batches of 1 and of 8."""
    rows, columns = _SAMPLE
    count = _SAMPLE_BYTES // (rows * columns * dtype.itemsize)
    plain = [torch.full(_SAMPLE, 0.5, dtype=dtype) for _ in range(count)]
    packed = [_pack(weight) for weight in plain]
    plain_seconds, packed_seconds = 0.0, 0.0
    for batch in (1, 8):
        x = torch.full((batch, columns), 0.5, dtype=dtype)
        # in turns, and the least of each counts, so that what runs beside it decides nothing
        rounds = [(_seconds(functional.linear, x, plain), _seconds(_multiply, x, packed)) for _ in range(_ROUNDS)]
        plain_seconds += min(seconds for seconds, _ in rounds)
        packed_seconds += min(seconds for _, seconds in rounds)
    return better_packed(plain_seconds, packed_seconds)


def better_packed(plain_seconds: float, packed_seconds: float) -> bool:
    """Packed unless it is clearly slower: on every CPU that was tried it was faster, and a busy one measures badly."""
    return packed_seconds < 1.1 * plain_seconds


def _seconds(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, weights: Sequence[torch.Tensor]
) -> float:
    began = time.perf_counter()
    for weight in weights:
        product(x, weight)
    return time.perf_counter() - began


@torch.inference_mode()
def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_ROWS)
    return packed


def _multiply(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
