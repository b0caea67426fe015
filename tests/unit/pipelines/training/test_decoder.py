"""The recipe learns, and an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from llmos.pipelines.training import checkpoint as checkpoints
from llmos.pipelines.training.checkpoint import Progress
from llmos.pipelines.training.decoder import main, parser, train
from llmos.pipelines.training.recipe import Recipe
from llmos.schemas.errors import OperatorError

KILLED_AT = 7
"""Between two checkpoints (4 and 8), behind an evaluation (6) that the resumed run must do again."""

CHILD = f"""
import os, signal, sys
from pathlib import Path
import msgspec, torch
from llmos.pipelines.training.decoder import train
from llmos.pipelines.training.recipe import Recipe

def on_step(progress):
    if progress.step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
recipe = msgspec.json.decode(sys.argv[1], type=Recipe)
train(recipe, *map(Path, sys.argv[2:]), resume=False, on_step=on_step)
"""


def test_the_loss_falls(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """A hundred steps teach a tiny model more than half a nat about unseen text, and the curve says so."""
    recipe = msgspec.structs.replace(recipe, steps=100, evaluate_every=10, checkpoint_every=100)
    seen: list[Progress] = []
    summary = train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False, on_step=seen.append)
    losses = [loss for _, loss in seen[-1].validation_losses]
    assert len(seen) == 100
    assert len(losses) == 10
    assert losses[0] - summary.validation_loss > 0.5
    assert seen[-1].train_losses[-1][1] < seen[-1].train_losses[0][1]
    assert summary.validation_loss == min(losses)
    assert 0 < summary.bits_per_byte < 8


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """Weights, moments and kept weights are equal bit for bit after SIGKILL between two checkpoints."""
    train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False)

    arguments = [msgspec.json.encode(recipe).decode(), str(data), str(tmp_path / "other"), str(tmp_path / "torn")]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], timeout=100, check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    left = checkpoints.latest(tmp_path / "torn")
    assert left is not None
    assert left.name == "step-00000004"
    assert not (tmp_path / "other").exists()
    steps: list[int] = []
    train(
        recipe,
        data,
        tmp_path / "other",
        tmp_path / "torn",
        resume=True,
        on_step=lambda progress: steps.append(progress.step),
    )

    assert steps == list(range(5, 13))
    for name in ("model.safetensors", "tokenizer.json", "config.json", "loss.png"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name
    for name in ("weights.safetensors", "optimizer.safetensors", "best.safetensors"):
        whole, torn = (tmp_path / root / "step-00000012" / name for root in ("state", "torn"))
        assert torn.read_bytes() == whole.read_bytes(), name


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """A folder appears under its name only when it is whole, so what a crash left behind is passed over."""
    train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False)
    (tmp_path / "state" / ".draft-1").mkdir()
    newest = checkpoints.latest(tmp_path / "state")
    assert newest is not None
    assert newest.name == "step-00000012"
    assert [path.name for path in newest.parent.glob("step-*")] == [newest.name]


def test_a_new_run_forgets_the_old_one(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """Without --resume earlier checkpoints are discarded, so a later --resume cannot meet them."""
    train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False)
    shorter = msgspec.structs.replace(recipe, steps=4)
    train(shorter, data, tmp_path / "model", tmp_path / "state", resume=False)
    newest = checkpoints.latest(tmp_path / "state")
    assert newest is not None
    assert newest.name == "step-00000004"


def test_another_recipe_cannot_be_resumed(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """The rate of every step depends on the recipe, so going on with another would be a third one."""
    train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False)
    longer = msgspec.structs.replace(recipe, steps=20)
    with pytest.raises(OperatorError, match="another recipe or text"):
        train(longer, data, tmp_path / "model", tmp_path / "state", resume=True)


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """It is named; the run does not quietly start anew."""
    train(recipe, data, tmp_path / "model", tmp_path / "state", resume=False)
    weights = tmp_path / "state" / "step-00000012" / "optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(OperatorError, match="step-00000012 cannot be read"):
        train(recipe, data, tmp_path / "model", tmp_path / "state", resume=True)


def test_the_command_has_a_flag_for_every_field() -> None:
    """Flags derive from the recipe, and its defaults are theirs."""
    flags = parser().parse_args(["--data", "a", "--out", "b"])
    assert Recipe(**{name: getattr(flags, name) for name in Recipe.__struct_fields__}) == Recipe()


def test_the_command_explains_what_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing text and an impossible size end with status 1 and a sentence, not a traceback."""
    wanted = ["--data", str(tmp_path / "none.txt"), "--out", str(tmp_path / "b"), "--state", str(tmp_path / "s")]
    assert main(wanted) == 1
    assert "none.txt cannot be read" in capsys.readouterr().err
    assert main([*wanted, "--hidden-size", "127"]) == 1
    assert "hidden_size must be a multiple" in capsys.readouterr().err
