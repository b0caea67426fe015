"""Wall time, as the port's `Clock`; the simulator's virtual one is `infra/simulation/clock`."""

from __future__ import annotations

import time


class WallClock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()
