"""Scanning, finding and verifying the models of some directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmos.pipelines.models.contents import SINGLE
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore, shipped_models
from llmos.schemas.errors import BadSetting, ModelDamaged, ModelUnavailable


def test_an_installation_has_a_decoder_and_an_encoder() -> None:
    """The shipped models are whole, have names and licences, and can do both kinds that need a model."""
    scan = ModelStore(shipped_models()).scan()
    assert scan.damaged == []
    found = {manifest.name: manifest for manifest in scan.models.values()}
    assert found["shakespeare-decoder"].kinds == ["generate"]
    encoder = found["minilm-l6-v2"]
    assert (encoder.kinds, encoder.licence) == (["embed"], "apache-2.0")
    assert (encoder.parameters, encoder.context_tokens, encoder.hidden_size) == (22_713_216, 256, 384)
    assert "1_Pooling/config.json" in [file.path for file in encoder.files]


def test_a_scan_reports_the_damaged_and_keeps_the_whole(decoder: Path, decoder_manifest: Manifest) -> None:
    """One bad directory hides no good one; folders that are no models are nobody's business."""
    root = decoder.parent
    bad = Path(shutil.copytree(decoder, root / "bad"))
    (bad / SINGLE).write_bytes(b"short")
    (root / "notes").mkdir()
    shutil.copytree(decoder, root / ".draft")
    scan = ModelStore([root]).scan()
    assert list(scan.models) == [decoder_manifest.identity]
    assert [(directory.name, problem.code) for directory, problem in scan.damaged] == [("bad", "model_damaged")]


def test_a_directory_may_be_a_model_itself(decoder: Path, decoder_manifest: Manifest) -> None:
    """It is named after its folder, and found by its identity."""
    store = ModelStore([decoder])
    store.scan()
    manifest = store.by_identity(decoder_manifest.identity)
    assert (manifest.name, manifest.directory) == ("decoder", decoder.resolve())


def test_of_two_copies_the_first_is_kept(decoder: Path, decoder_manifest: Manifest) -> None:
    """The order of the directories decides, so a scan always gives the same answer."""
    copy = Path(shutil.copytree(decoder, decoder.parent.parent / "another"))
    assert ModelStore([copy, decoder]).scan().models[decoder_manifest.identity].name == "another"
    assert ModelStore([decoder, copy]).scan().models[decoder_manifest.identity].name == "decoder"


def test_what_no_scan_found_is_unavailable(decoder: Path) -> None:
    """Before the first scan, and for an identity that is not there, the error says where it was looked for."""
    store = ModelStore([decoder])
    with pytest.raises(ModelUnavailable, match="in none of its model directories"):
        store.by_identity("0" * 64)


def test_a_directory_that_is_not_there_is_a_bad_setting(tmp_path: Path) -> None:
    """A misspelt directory stops the start; it does not silently hold no models."""
    with pytest.raises(BadSetting, match=r"node\.models_directories"):
        ModelStore([tmp_path / "nowhere"]).scan()


def test_verify_names_the_file_that_changed(decoder: Path) -> None:
    """A whole model passes; a flipped byte, a new and a lost file are each found."""
    store = ModelStore([decoder])
    (manifest,) = store.scan().models.values()
    store.verify(manifest)
    weights = (decoder / SINGLE).read_bytes()
    (decoder / SINGLE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelDamaged, match=r"model\.safetensors has changed since it was scanned"):
        store.verify(manifest)
    (decoder / SINGLE).write_bytes(weights)
    (decoder / "special_tokens_map.json").write_text("{}")
    with pytest.raises(ModelDamaged, match=r"special_tokens_map\.json is new"):
        store.verify(manifest)
    (decoder / "special_tokens_map.json").unlink()
    (decoder / "generation_config.json").unlink()
    with pytest.raises(ModelDamaged, match=r"generation_config\.json is gone"):
        store.verify(manifest)
