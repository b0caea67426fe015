"""CRC32C: tells a payload that was damaged on its way from one that was forged."""

from __future__ import annotations

import google_crc32c


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `data`, from 0 to 2**32 - 1."""
    return int(google_crc32c.value(data))
