"""Trains a small Llama decoder on a text: `python -m llmos.pipelines.training.decoder --data TEXT --out DIRECTORY`.

Killed at any moment, the same command with `--resume` goes on from the last checkpoint and ends with the weights, bit for
bit, of a run that was never interrupted (on the same machine and torch; another thread count may round otherwise).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich import progress as bars
from rich.console import Console
from tokenizers import Tokenizer

from llmos.pipelines.training import checkpoint as checkpoints
from llmos.pipelines.training.checkpoint import Progress
from llmos.pipelines.training.corpus import END_MARK_ID, Corpus, digest, read_text, train_tokenizer
from llmos.pipelines.training.curve import draw_losses
from llmos.pipelines.training.export import Summary, write_model
from llmos.pipelines.training.network import Decoder
from llmos.pipelines.training.recipe import Recipe
from llmos.schemas.errors import LlmosError, OperatorError

EVALUATION_BATCH = 16
LOSS_EVERY = 10
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.8
BETAS = (0.9, 0.95)

OnStep = Callable[[Progress], None]


class Run:
    """A training run in memory: made new, or as a checkpoint left it."""

    def __init__(self, recipe: Recipe, text: str, checkpoint: checkpoints.Checkpoint | None) -> None:
        self.recipe = recipe
        self.identity: dict[str, Any] = {"recipe": msgspec.to_builtins(recipe), "text": digest(text)}
        if checkpoint is not None and checkpoint.run != self.identity:
            raise OperatorError(problem="the checkpoint is of another recipe or text; start without --resume")
        self.tokenizer: Tokenizer = checkpoint.tokenizer if checkpoint else train_tokenizer(text, recipe.vocabulary)
        self.corpus = Corpus.of(text, self.tokenizer, recipe)
        self.model = Decoder(recipe)
        self.optimizer = make_optimizer(self.model, recipe)
        self.random = np.random.Generator(np.random.PCG64(recipe.seed))
        self.progress = Progress()
        self.best = copy_of(self.model)
        if checkpoint is not None:
            checkpoints.restore(checkpoint, self.model, self.optimizer)
            self.random.bit_generator.state = checkpoint.random
            self.progress, self.best = checkpoint.progress, checkpoint.best

    def step(self) -> float:
        """One update. Gives the batch's loss before it, in nats per token."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.progress.step)
        loss = self.model.loss(self.corpus.draw(self.random, recipe))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.progress.step += 1
        return loss.item()

    def evaluate(self) -> None:
        """Notes the validation loss, and keeps the weights when it is the least so far."""
        loss = validation_loss(self.model, self.corpus.validation_windows(self.recipe))
        self.progress.validation_losses.append((self.progress.step, loss))
        if self.progress.best_loss is None or loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self.best = copy_of(self.model)

    def save(self, root: Path) -> None:
        """Writes a checkpoint."""
        checkpoints.save(
            root,
            self.model,
            self.optimizer,
            self.best,
            self.tokenizer,
            self.progress,
            dict(self.random.bit_generator.state),
            self.identity,
        )

    def summary(self) -> Summary:
        """What the run came to; only after an evaluation."""
        loss = self.progress.best_loss
        if loss is None:
            raise OperatorError(problem="nothing was evaluated yet")
        return Summary(
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            steps=self.progress.step,
            best_step=self.progress.best_step,
            validation_loss=loss,
            bits_per_byte=self.corpus.bits_per_byte(loss),
            seconds=self.progress.seconds,
            threads=torch.get_num_threads(),
        )


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    state: Path,
    resume: bool,
    on_step: OnStep | None = None,
) -> Summary:
    """Trains, writes the model directory `out`, gives the summary.

    `state`: where checkpoints are kept. `resume`: go on from the newest one there, if there is one; otherwise they are
    discarded. `on_step` is called after every step, before a checkpoint of it is written.

    Raises:
        OperatorError: the text or a checkpoint cannot be read, or the checkpoint is of another run.
    """
    text = read_text(data)
    newest = checkpoints.latest(state) if resume else None
    if not resume:
        checkpoints.discard(state)
    run = Run(recipe, text, checkpoints.read(newest) if newest else None)
    for _ in shown(run):
        _turn(run, state, on_step)
    summary = run.summary()
    out.mkdir(parents=True, exist_ok=True)
    run.model.load_state_dict(run.best)
    write_model(out, recipe, run.best, run.tokenizer, summary, data.name, sample(run))
    draw_losses(
        out / "loss.png",
        run.progress.train_losses,
        run.progress.validation_losses,
        run.progress.best_step,
    )
    return summary


def _turn(run: Run, state: Path, on_step: OnStep | None) -> None:
    recipe, progress, began = run.recipe, run.progress, time.monotonic()
    loss = run.step()
    last = progress.step == recipe.steps
    if progress.step % LOSS_EVERY == 0 or last:
        progress.train_losses.append((progress.step, loss))
    if progress.step % recipe.evaluate_every == 0 or last:
        run.evaluate()
    progress.seconds += time.monotonic() - began
    if on_step is not None:
        on_step(progress)
    if progress.step % recipe.checkpoint_every == 0 or last:
        run.save(state)


def shown(run: Run) -> Iterable[int]:
    """The steps that are left, with a progress bar on standard error."""
    columns = (
        bars.TextColumn("training"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[losses]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=run.recipe.steps, completed=run.progress.step, losses="")
        for step in range(run.progress.step, run.recipe.steps):
            yield step
            bar.update(task, completed=step + 1, losses=_losses(run.progress))


def _losses(progress: Progress) -> str:
    train, validation = progress.train_losses, progress.validation_losses
    parts = [f"loss {train[-1][1]:.3f}"] if train else []
    return " ".join(parts + ([f"validation {validation[-1][1]:.3f}"] if validation else []))


def make_optimizer(model: Decoder, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) that decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    norms = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=BETAS)


@torch.no_grad()
def validation_loss(model: Decoder, windows: torch.Tensor) -> float:
    """Mean loss over all windows, in nats per token."""
    total = 0.0
    for batch in torch.split(windows, EVALUATION_BATCH):
        total += model.loss(batch).item() * len(batch)
    return total / len(windows)


def copy_of(model: Decoder) -> dict[str, torch.Tensor]:
    """The parameters as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def sample(run: Run) -> str:
    """Text that the model begins by itself; the same weights give the same text."""
    random = torch.Generator().manual_seed(run.recipe.seed)
    tokens = torch.tensor([[END_MARK_ID]])
    for _ in range(min(SAMPLE_TOKENS, run.recipe.context - 1)):
        chances = torch.softmax(run.model(tokens)[0, -1] / SAMPLE_TEMPERATURE, dim=-1)
        tokens = torch.cat((tokens, torch.multinomial(chances, 1, generator=random)[None]), dim=1)
    return str(run.tokenizer.decode(tokens[0, 1:].tolist()))


def parser() -> argparse.ArgumentParser:
    """The command line; a flag for every field of `Recipe`."""
    flags = argparse.ArgumentParser(
        prog="python -m llmos.pipelines.training.decoder",
        description="Trains a small Llama decoder on a text; the result is a model directory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flags.add_argument("--data", type=Path, required=True, help="UTF-8 text, plain or .gz")
    flags.add_argument("--out", type=Path, required=True, help="the model directory to write")
    flags.add_argument("--state", type=Path, help="where checkpoints are kept; none: .llmos/training/NAME")
    flags.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    flags.add_argument("--threads", type=int, default=1, help="CPU threads")
    for field in msgspec.structs.fields(Recipe):
        flags.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default, help=" ")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives its exit status."""
    flags = parser().parse_args(arguments)
    torch.set_num_threads(flags.threads)
    state = flags.state or Path(".llmos") / "training" / flags.out.resolve().name
    try:
        recipe = Recipe(**{name: getattr(flags, name) for name in Recipe.__struct_fields__})
        summary = train(recipe, flags.data, flags.out, state, flags.resume)
    except LlmosError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(
        f"{flags.out}: {summary.parameters:,} parameters, validation {summary.validation_loss:.4f} nats per token, "
        f"{summary.bits_per_byte:.4f} bits per byte, {summary.seconds:.0f} s\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
