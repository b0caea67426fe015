"""Random numbers as a pure function of how many were drawn before: splitmix64 (Steele, Lea, Flood, 2014)."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def draw(drawn: int, below: int) -> int:
    """The number behind the `drawn` before it, from 0 to `below` − 1."""
    z = ((drawn + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) * below) >> 64
