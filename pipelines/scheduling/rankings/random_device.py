"""Random: any of the devices, whatever is known of them; a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.rankings.chance import draw
from llmos.pipelines.scheduling.snapshot import Load


def any_of(devices: Sequence[Load], drawn: int) -> tuple[int, int]:
    """The place of one of `devices`, each as likely as the others, and the numbers drawn so far."""
    return draw(drawn, len(devices)), drawn + 1
