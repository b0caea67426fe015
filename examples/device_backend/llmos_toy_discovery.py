"""Which toys this machine has. Without torch: a node asks, and looks for drivers rather than for frameworks."""

from __future__ import annotations

import os


def discover() -> list[str]:
    """One for each that TOY_DEVICES says; a true one asks its driver."""
    count = int(os.environ.get("TOY_DEVICES", "0"))
    return [f"toy:{k}/{count}" for k in range(count)]
