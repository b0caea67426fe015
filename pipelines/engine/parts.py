"""The parts that all architectures are made of: norms, activations, and linear layers out of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch.nn import functional

from llmos.pipelines.engine.linear import Linear
from llmos.pipelines.engine.weights import WeightTaker

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
NormKind: TypeAlias = Literal["rms", "layer"]


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Activation] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
"""By the names that configurations use."""


class Norm(NamedTuple):
    """Normalises the last dimension: by its root mean square where there is no `bias`, else by mean and variance."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    epsilon: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(…, width) → (…, width)."""
        if self.bias is None:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What it holds."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def take_norm(taker: WeightTaker, name: str, width: int, kind: NormKind, epsilon: float) -> Norm:
    """The norm `name`. Raises `ModelDamaged`."""
    if kind == "rms":
        return Norm(taker.take(f"{name}.weight", width), None, epsilon)
    # checkpoints that were once converted from TensorFlow call the two gamma and beta
    weight, bias = ("gamma", "beta") if taker.has(f"{name}.gamma") else ("weight", "bias")
    return Norm(taker.take(f"{name}.{weight}", width), taker.take(f"{name}.{bias}", width), epsilon)


def take_linear(
    taker: WeightTaker, outputs: Mapping[str, int], inputs: int, *, bias: bool, transposed: bool = False
) -> Linear:
    """The products named in `outputs` (name → outputs) as one; `transposed`: the file has them as (inputs, outputs).

    Raises:
        ModelDamaged: a tensor is missing or of another shape.
    """
    weights = []
    for name, rows in outputs.items():
        if transposed:
            weights.append(taker.take(f"{name}.weight", inputs, rows).t().contiguous())
        else:
            weights.append(taker.take(f"{name}.weight", rows, inputs))
    biases = [taker.take(f"{name}.bias", rows) for name, rows in outputs.items()] if bias else []
    whole = weights[0] if len(weights) == 1 else torch.cat(weights)
    weights.clear()  # so that the parts are gone while the whole is being packed
    if not biases:
        return Linear(whole)
    return Linear(whole, biases[0] if len(biases) == 1 else torch.cat(biases))
