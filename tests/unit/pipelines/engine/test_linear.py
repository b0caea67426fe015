"""A linear layer gives the product, packed or plain, and packs only where that is possible and pays."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llmos.pipelines.engine import linear
from llmos.pipelines.engine.linear import Linear, better_packed, can_pack, packing_pays
from llmos.pipelines.engine.weights import tensor_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(1, 70), (5, 70), (3, 17, 70)])
def test_packed_and_plain_agree(
    dtype: torch.dtype, biased: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in one, two and three dimensions, sizes that fill no block: the same product within the last bits."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(33, 70, generator=generator).to(dtype)
    bias = torch.randn(33, generator=generator).to(dtype) if biased else None
    x = torch.randn(*shape, generator=generator).to(dtype)
    monkeypatch.setattr(linear, "LEAST_BYTES", {dtype: 0})
    monkeypatch.setattr(linear, "packing_pays", lambda dtype: True)
    layer = Linear(weight, bias)
    tolerance = 1e-4 if dtype == torch.float32 else 0.13
    torch.testing.assert_close(layer(x), functional.linear(x, weight, bias), atol=tolerance, rtol=1e-2)
    assert tensor_bytes(layer.tensors) >= weight.nbytes


def test_what_is_packed() -> None:
    """Large weights on the CPU, in dtypes that oneDNN lays out; small ones, others and those elsewhere stay as they are."""
    assert can_pack(CPU, torch.float32, 1 << 20) == torch.backends.mkldnn.is_available()
    assert not can_pack(CPU, torch.float32, (1 << 20) - 1)
    assert not can_pack(CPU, torch.float16, 1 << 30)
    assert not can_pack(torch.device("meta"), torch.float32, 1 << 30)
    assert not Linear(torch.ones(8, 8)).packed


def test_packing_is_chosen_by_measurement() -> None:
    """Packed unless it is clearly slower; the machine is asked once."""
    assert better_packed(plain_seconds=2.0, packed_seconds=1.0)
    assert better_packed(plain_seconds=1.0, packed_seconds=1.05)
    assert not better_packed(plain_seconds=1.0, packed_seconds=1.2)
    if torch.backends.mkldnn.is_available():
        assert packing_pays(torch.float32) is packing_pays(torch.float32)
        assert packing_pays.cache_info().misses == 1
