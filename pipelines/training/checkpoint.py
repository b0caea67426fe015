"""Checkpoints: tensors in safetensors, everything else in JSON, each a folder that appears whole by one rename.

step-00000400/
    weights.safetensors      the parameters
    optimizer.safetensors    AdamW's moments, as `<parameter>/<moment>`
    best.safetensors         the parameters with the least validation loss so far
    tokenizer.json           the tokenizer of the run
    state.json               recipe, text digest, step, losses, state of the random generator
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llmos.schemas.errors import OperatorError


@dataclass(slots=True)
class Progress:
    """The scalars of a run."""

    step: int = 0
    """Steps done."""
    best_loss: float | None = None
    """Least validation loss so far, in nats per token; None before the first evaluation."""
    best_step: int = 0
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    train_losses: list[tuple[int, float]] = field(default_factory=list)
    validation_losses: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read back."""

    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    progress: Progress
    random: dict[str, Any]
    run: dict[str, Any]
    """Recipe and text digest: what must be the same to go on."""


def save(
    root: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    progress: Progress,
    random: dict[str, Any],
    run: dict[str, Any],
) -> Path:
    """Writes a checkpoint, then removes older ones; a crash at any moment leaves the newest whole one."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"step-{progress.step:08d}"
    draft = root / f".draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file(model.state_dict(), draft / "weights.safetensors")
    save_file(_moments(model, optimizer), draft / "optimizer.safetensors")
    save_file(best, draft / "best.safetensors")
    tokenizer.save(str(draft / "tokenizer.json"))
    state = {"run": run, "progress": _plain(progress), "random": random}
    (draft / "state.json").write_text(json.dumps(state))
    for file in draft.iterdir():
        _sync(file)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    _sync(root)
    for old in _complete(root):
        if old != target:
            shutil.rmtree(old)
    return target


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint under `root`."""
    return max(_complete(root), default=None)


def discard(root: Path) -> None:
    """Removes every checkpoint, so that a later resumption cannot meet one of an older run."""
    for folder in [*_complete(root), *root.glob(".draft-*")]:
        shutil.rmtree(folder)


def read(folder: Path) -> Checkpoint:
    """Reads a checkpoint. Raises `OperatorError` when a file of it is missing or unreadable."""
    try:
        state = json.loads((folder / "state.json").read_text())
        values = state["progress"]
        for name in ("train_losses", "validation_losses"):
            values[name] = [(int(step), float(loss)) for step, loss in values[name]]
        return Checkpoint(
            weights=load_file(folder / "weights.safetensors"),
            moments=load_file(folder / "optimizer.safetensors"),
            best=load_file(folder / "best.safetensors"),
            tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
            progress=Progress(**values),
            random=state["random"],
            run=state["run"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise OperatorError(problem=f"checkpoint {folder} cannot be read: {problem}") from problem


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts parameters and moments back, bit for bit."""
    model.load_state_dict(checkpoint.weights)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}/"
            optimizer.state[parameter] = {
                key.removeprefix(prefix): value for key, value in checkpoint.moments.items() if key.startswith(prefix)
            }


def _moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }


def _plain(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in Progress.__dataclass_fields__}


def _complete(root: Path) -> list[Path]:
    return sorted(root.glob("step-*")) if root.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
