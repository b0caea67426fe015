"""A cache grows on demand, geometrically as long as that is allowed, and says beforehand what it will take."""

from __future__ import annotations

import pytest
import torch

from llmos.pipelines.engine.kvcache import Capacity, SlotCache, grown

MOST = Capacity(16, 1000)
NONE = Capacity(0, 0)


@pytest.mark.parametrize(
    ("have", "need", "most_bytes", "wanted"),
    [
        # nothing there: just what is needed, tokens in units of 128, the last one cut off by the most there may be
        (NONE, Capacity(1, 1), None, Capacity(1, 128)),
        (NONE, Capacity(3, 129), None, Capacity(3, 256)),
        (NONE, Capacity(1, 990), None, Capacity(1, 1000)),
        # enough: as it is
        (Capacity(4, 256), Capacity(4, 256), None, Capacity(4, 256)),
        (Capacity(4, 256), Capacity(1, 100), None, Capacity(4, 256)),
        # more: twice, in what must grow only, up to the most
        (Capacity(4, 256), Capacity(5, 256), None, Capacity(8, 256)),
        (Capacity(4, 256), Capacity(4, 257), None, Capacity(4, 512)),
        (Capacity(4, 256), Capacity(11, 700), None, Capacity(11, 768)),
        (Capacity(12, 640), Capacity(13, 641), None, Capacity(16, 1000)),
        # bounded: twice if that is allowed, else just what is needed
        (Capacity(4, 256), Capacity(5, 256), 8 * 256 * 10, Capacity(8, 256)),
        (Capacity(4, 256), Capacity(5, 256), 8 * 256 * 10 - 1, Capacity(5, 256)),
        (Capacity(4, 256), Capacity(4, 300), 4 * 500 * 10, Capacity(4, 384)),
    ],
)
def test_growth(have: Capacity, need: Capacity, most_bytes: int | None, wanted: Capacity) -> None:
    """What a cache of 10 bytes a token grows to."""
    assert grown(have, need, MOST, 10, most_bytes) == wanted


def cache_of(slots: int = 4, tokens: int = 300) -> SlotCache:
    return SlotCache(2, 3, 5, Capacity(slots, tokens), torch.device("cpu"), torch.float32)


def test_what_it_says_is_what_it_takes() -> None:
    """`bytes_for` is what `resident_bytes` is after `ensure`, at every step; in the end nothing is left."""
    cache = cache_of()
    assert cache.resident_bytes == 0
    for slots, tokens in [(1, 5), (2, 5), (2, 129), (1, 1), (4, 300)]:
        said = cache.bytes_for(slots, tokens)
        cache.ensure(slots, tokens)
        assert cache.resident_bytes == said == cache.slots * cache.tokens * cache.token_bytes
    assert (cache.slots, cache.tokens) == (4, 300)
    cache.shrink()
    assert (cache.resident_bytes, cache.slots, cache.tokens) == (0, 0, 0)
    cache.ensure(1, 1)
    assert float(cache.keys[1].abs().sum()) == 0.0


def test_its_limits_are_kept() -> None:
    """More slots or tokens than it was made for are an error, and nothing grows."""
    cache = cache_of()
    for slots, tokens in ((5, 10), (1, 301)):
        with pytest.raises(ValueError, match="are more than 4 of 300"):
            cache.ensure(slots, tokens)
        with pytest.raises(ValueError, match="are more than"):
            cache.bytes_for(slots, tokens)
    assert cache.resident_bytes == 0


def test_what_is_in_it_stays() -> None:
    """Growing, copying and clearing move just what they should, in every layer."""
    cache = cache_of()
    cache.ensure(2, 128)
    for tensor in (*cache.keys, *cache.values):
        tensor[1] = torch.arange(128.0)[None, :, None]
    cache.copy(1, 3, 50)
    assert cache.slots == 4
    cache.ensure(4, 200)
    for tensor in (*cache.keys, *cache.values):
        assert torch.equal(tensor[1, 0, :128, 0], torch.arange(128.0))
        assert torch.equal(tensor[3, 2, :50, 4], torch.arange(50.0))
        assert float(tensor[3, :, 50:].abs().sum()) == float(tensor[0].abs().sum()) == 0.0
    cache.clear(1)
    assert all(float(tensor[1].abs().sum()) == 0.0 for tensor in (*cache.keys, *cache.values))
    cache.clear(9)


def test_memory_that_ends_while_it_grows_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed allocation in the middle leaves capacity and content as they were, and the next try succeeds."""
    cache = cache_of()
    cache.ensure(1, 128)
    cache.values[1][0] = 7.0
    real, calls = torch.zeros, 0

    def zeros(*arguments: object, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(*arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(RuntimeError, match="allocate"):
        cache.ensure(4, 256)
    assert (cache.slots, cache.tokens) == (1, 128)
    assert float(cache.values[1][0].min()) == 7.0
    cache.ensure(4, 256)
    assert cache.resident_bytes == 4 * 256 * cache.token_bytes
    assert float(cache.values[1][0, :, :128].min()) == 7.0


def test_memory_that_ends_while_it_shrinks_promises_nothing_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some layers are small already when it ends: what needs more slots after that grows them all again."""
    cache = cache_of()
    cache.ensure(4, 128)
    real, left = torch.zeros, [1]

    def scarce(*args: object, **kwargs: object) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return real(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "zeros", scarce)
        with pytest.raises(MemoryError):
            cache.shrink(1, 128)
    cache.ensure(3, 128)
    assert all(tensor.shape[0] >= 3 for tensor in (*cache.keys, *cache.values))
