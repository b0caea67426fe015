"""A device whose ρ is above the limit takes no task while another device may."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import Load, Rules, Waiting


def utilisation(device: Load, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs ρ = λ/μ at or below the limit."""
    if device.utilisation <= rules.utilisation_limit:
        return None
    return Why("utilisation", rules.utilisation_limit, device.utilisation)
