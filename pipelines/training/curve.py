"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_losses(
    path: Path, train: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]], best_step: int
) -> None:
    """Writes a PNG of (step, nats per token) pairs; no display is needed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_columns(train), linewidth=1, label="training")
    axes.plot(*_columns(validation), marker="o", markersize=3, label="validation")
    axes.axvline(best_step, linestyle=":", linewidth=1, color="grey", label=f"kept: step {best_step}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    # A fixed set of metadata, so that the same losses give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]
