"""No byte is used that was not verified: what was changed, cut or lied about is refused."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save, save_file

from llmos.pipelines.engine.weights import (
    CHUNK_BYTES,
    WeightTaker,
    load_weights,
    read_json,
    read_verified,
    tensor_bytes,
)
from llmos.pipelines.models.manifest import Manifest, ModelFile, make_manifest
from llmos.schemas.errors import ModelDamaged


@pytest.fixture
def model(tmp_path: Path) -> Manifest:
    """A model of one file of about 9 MiB, without a kind."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "wide": torch.randn(1500, 1500, generator=generator),
        "half": torch.randn(7, 3, generator=generator).bfloat16(),
        "odd": torch.arange(5, dtype=torch.uint8),
        "none": torch.empty(0, 4),
        "one": torch.tensor(3.5, dtype=torch.float64),
    }
    directory = tmp_path / "model"
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "thing"}')
    return make_manifest(directory, "model")


def test_tensors_are_those_of_the_file(model: Manifest) -> None:
    """Every dtype and shape comes back bit by bit, and progress rises to the size of the file in chunks."""
    told: list[tuple[int, int]] = []
    weights = load_weights(model, lambda done, total: told.append((done, total)))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(weights["wide"], torch.randn(1500, 1500, generator=generator))
    assert torch.equal(weights["half"], torch.randn(7, 3, generator=generator).bfloat16())
    assert weights["odd"].tolist() == [0, 1, 2, 3, 4]
    assert weights["none"].shape == (0, 4)
    assert weights["one"].item() == 3.5
    size = (model.directory / "model.safetensors").stat().st_size
    steps = [after - before for (before, _), (after, _) in itertools.pairwise([(0, 0), *told])]
    assert told[-1] == (size, size)
    assert all(CHUNK_BYTES <= step < 2 * CHUNK_BYTES for step in steps[:-1])
    assert {total for _, total in told} == {size}


@pytest.mark.parametrize("place", [0, 100, 5_000_000, -1])
def test_a_changed_byte_is_found(place: int, model: Manifest) -> None:
    """One bit that differs from the manifest, in the header or in a tensor, is a damaged model."""
    path = model.directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelDamaged, match="SHA-256"):
        load_weights(model)


@pytest.mark.parametrize("change", [b"", None])
def test_a_file_of_another_size_is_found(change: bytes | None, model: Manifest) -> None:
    """A file that was cut off or grew is a damaged model; so is one that is gone."""
    path = model.directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if change is None else data + b"x")
    with pytest.raises(ModelDamaged, match="bytes any more"):
        load_weights(model)
    path.unlink()
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        load_weights(model)


def test_a_changed_configuration_is_found(model: Manifest) -> None:
    """A configuration is verified like weights, and a file that no manifest lists is not read."""
    assert read_json(model, "config.json") == {"model_type": "thing"}
    (model.directory / "config.json").write_text('{"model_type": "THING"}')
    with pytest.raises(ModelDamaged, match="SHA-256"):
        read_json(model, "config.json")
    (model.directory / "extra.json").write_text("{}")
    with pytest.raises(ModelDamaged, match=r"no file extra\.json"):
        read_verified(model, "extra.json")


def test_shards_are_read_together(tmp_path: Path) -> None:
    """The tensors of several files are one model, and progress counts them all."""
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_bytes(msgspec.json.encode(index))
    (tmp_path / "config.json").write_text("{}")
    told: list[tuple[int, int]] = []
    weights = load_weights(make_manifest(tmp_path, "two"), lambda done, total: told.append((done, total)))
    assert sorted(weights) == ["a", "b"]
    assert told[-1][0] == told[-1][1] == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (b"\xff" * 8, "cut off"),
        ((20).to_bytes(8, "little") + b"{}", "cut off"),
        ((2).to_bytes(8, "little") + b"{}x", "has 1"),
        ((2).to_bytes(8, "little") + b"[]", "object"),
        (save({"a": torch.ones(3)})[:-1], "need 12 bytes"),
        (save({"a": torch.ones(3)}).replace(b"[3]", b"[4]"), "shape"),
        (save({"a": torch.ones(3)}).replace(b"[0,12]", b"[4,16]"), "begins at 4"),
    ],
)
def test_a_file_that_lies_about_its_layout_is_refused(data: bytes, said: str, model: Manifest) -> None:
    """Headers that are cut off, not JSON, or name other bytes than there are, never become tensors, whatever lists them."""
    (model.directory / "model.safetensors").write_bytes(data)
    listed = ModelFile("model.safetensors", len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(ModelDamaged, match=said):
        load_weights(msgspec.structs.replace(model, files=[listed]))


def test_a_file_in_a_folder_is_no_part_of_the_model(model: Manifest) -> None:
    """Weights of another part, in a folder of its own, are not mixed with the model's."""
    folder = model.directory / "2_Dense"
    folder.mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    listed = ModelFile("2_Dense/model.safetensors", len(data), hashlib.sha256(data).hexdigest())
    both = msgspec.structs.replace(model, files=[*model.files, listed])
    assert "linear.weight" not in load_weights(both)


def test_a_taker_converts_and_misses_nothing() -> None:
    """A taken tensor has the wanted dtype and is let go; wrong shapes, missing and left-over tensors are errors."""
    weights = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.ones(2), "c": torch.ones(1)}
    taker = WeightTaker(weights, "x", torch.device("cpu"), torch.float32)
    taken = taker.take("a", 2, 3)
    assert taken.dtype == torch.float32
    assert float(taken.sum()) == 6.0
    assert "a" not in weights
    with pytest.raises(ModelDamaged, match="missing"):
        taker.take("a", 2, 3)
    with pytest.raises(ModelDamaged, match=r"\(2,\) and not \(3,\)"):
        taker.take("b", 3)
    with pytest.raises(ModelDamaged, match="tensor c is not one"):
        taker.finish(lambda name: name == "b")


def test_shared_storage_is_counted_once() -> None:
    """A tied head costs nothing more."""
    tensor = torch.ones(10)
    assert tensor_bytes((tensor, tensor, None, torch.ones(5))) == 60
