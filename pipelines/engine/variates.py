"""Exponential variates by seed, place in the output and token: a function, not a stream, so nothing else moves them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = 2**64 - 1
_SCALE = np.float32(-(2.0**-32) * (1.0 - 2.0**-23))
"""Takes 32 bits, of which float32 rounds the highest up, to (-1, 0)."""


def key_of(seed: int, place: int) -> int:
    """64 bits that stand for a seed and a place in the output."""
    return _mixed(_mixed(seed & _MASK) ^ (place & _MASK))


def exponential_variates(tokens: npt.NDArray[np.uint32], key: int) -> npt.NDArray[np.float32]:
    """An exponential variate of mean 1 for each of `tokens` (n,), above 0: -log(1 - u) of their hashes under `key`.

    The hash is `lowbias32` of https://nullprogram.com/blog/2018/07/31/, with half of the key before it and half within.
    """
    bits = tokens ^ np.uint32(key & 0xFFFFFFFF)
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x7FEB352D)
    bits ^= np.uint32(key >> 32)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(0x846CA68B)
    bits ^= bits >> np.uint32(16)
    variates = bits.astype(np.float32)
    variates += np.float32(0.5)
    variates *= _SCALE
    np.log1p(variates, out=variates)
    return np.negative(variates, out=variates)


def _mixed(value: int) -> int:
    """SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
