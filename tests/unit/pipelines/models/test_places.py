"""Where models are found below a directory: folders of folders, hub caches, what is left alone."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from llmos.pipelines.models.contents import SINGLE
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.places import look_at, places_in
from llmos.pipelines.models.store import ModelStore

REVISION, OTHER = "1" * 40, "2" * 40


def names(root: Path) -> list[tuple[str, str]]:
    """Names and places, relative to the root."""
    return [(place.name, place.directory.relative_to(root).as_posix()) for place in places_in(root)]


def model(folder: Path) -> None:
    """A folder that looks like a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def to_hub(source: Path, root: Path, name: str = "org/model", revision: str = REVISION) -> Path:
    """Puts a model in a hub cache, as the hub's library lays it out: links to blobs that are named by their hash."""
    folder = root / f"models--{name.replace('/', '--')}"
    snapshot, blobs = folder / "snapshots" / revision, folder / "blobs"
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        blobs.mkdir(exist_ok=True)
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    return snapshot


def test_models_are_found_in_folders_of_folders(tmp_path: Path) -> None:
    """To a small depth, under the path that leads there; hidden folders and those inside of models are nobody's."""
    for folder in ("b", "org/model", "org/.draft", ".git/x", "a/b/c", "deep/er/than/this", "b/inside"):
        model(tmp_path / folder)
    (tmp_path / "notes.txt").write_text("")
    assert names(tmp_path) == [("a/b/c", "a/b/c"), ("b", "b"), ("org/model", "org/model")]
    assert names(tmp_path / "b") == [("b", ".")]


def test_folders_behind_links_are_not_searched_but_may_be_models(tmp_path: Path) -> None:
    """A link may be a loop; a model behind one must lie inside of the root, which its reader checks."""
    model(tmp_path / "root" / "a" / "m")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "same").symlink_to(tmp_path / "root" / "a" / "m")
    assert [name for name, _ in names(tmp_path / "root")] == ["a/m", "same"]


def test_revisions_of_a_hub_cache_have_names(tmp_path: Path) -> None:
    """The one that `main` stands for has the model's own, others add the beginning of theirs."""
    for revision in (REVISION, OTHER):
        model(tmp_path / "models--org--model" / "snapshots" / revision)
    model(tmp_path / "models--gpt2" / "snapshots" / OTHER)
    (tmp_path / "models--org--model" / "refs").mkdir()
    (tmp_path / "models--org--model" / "refs" / "main").write_text(f"{REVISION}\n")
    (tmp_path / "datasets--x" / "snapshots" / "y").mkdir(parents=True)
    expected = ["gpt2@22222222", "org/model", "org/model@22222222"]
    assert [name for name, _ in names(tmp_path)] == expected
    assert [place.name for place in places_in(tmp_path / "models--org--model")] == expected[1:]
    tmp_path.rename(tmp_path.parent / "hub")
    (tmp_path / "home").mkdir(parents=True)
    (tmp_path.parent / "hub").rename(tmp_path / "home" / "hub")
    assert [name for name, _ in names(tmp_path / "home")] == expected


def test_a_model_of_a_hub_cache_is_whole(tmp_path: Path, decoder: Path, decoder_manifest: Manifest) -> None:
    """Its links lead out of its folder, and stay inside of the root."""
    to_hub(decoder, tmp_path / "hub")
    scan = ModelStore([tmp_path / "hub"]).scan()
    assert scan.damaged == []
    assert scan.models[decoder_manifest.identity].name == "org/model"


def test_a_link_out_of_the_root_is_damage(tmp_path: Path, decoder: Path) -> None:
    """Of a hub cache as of a folder; others in the root are not touched by it."""
    shutil.copytree(decoder, tmp_path / "hub" / "whole")
    snapshot = to_hub(decoder, tmp_path / "hub")
    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to(decoder / SINGLE)
    (tmp_path / "hub" / "linked").symlink_to(decoder)
    scan = ModelStore([tmp_path / "hub"]).scan()
    assert [manifest.name for manifest in scan.models.values()] == ["whole"]
    found = {damage.name: str(damage.problem) for damage in scan.damaged}
    assert f"model.safetensors leads out of {tmp_path / 'hub'}" in found["org/model"]
    assert f"it leads out of {tmp_path / 'hub'}" in found["linked"]


def test_a_blob_that_is_not_what_it_is_named_after_is_damage(tmp_path: Path, decoder: Path) -> None:
    """A hub cache knows better than the first sight what its files should be."""
    snapshot = to_hub(decoder, tmp_path / "hub")
    data = (snapshot / SINGLE).read_bytes()
    (snapshot / SINGLE).resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (damage,) = ModelStore([tmp_path / "hub"]).scan().damaged
    assert "model.safetensors does not have the SHA-256 that its file in the hub cache is named after" in str(
        damage.problem
    )


def test_a_missing_blob_is_damage(tmp_path: Path, decoder: Path) -> None:
    """Also that of the configuration, without which it would not look like a model."""
    snapshot = to_hub(decoder, tmp_path / "hub")
    (snapshot / "config.json").resolve().unlink()
    (damage,) = ModelStore([tmp_path / "hub"]).scan().damaged
    assert "config.json is missing" in str(damage.problem)


def test_a_download_that_goes_on_shows_in_the_look(tmp_path: Path, decoder: Path) -> None:
    """Links come when their blobs are whole; until then the unfinished ones grow."""
    to_hub(decoder, tmp_path / "hub")
    (place,) = places_in(tmp_path / "hub")
    before = look_at(place)
    unfinished = tmp_path / "hub" / "models--org--model" / "blobs" / "x.incomplete"
    looks = [before]
    for data in ("", "a", "ab"):
        unfinished.write_text(data)
        looks.append(look_at(place))
    assert len(set(looks)) == 4
    unfinished.unlink()
    assert look_at(place) == before


def test_a_folder_that_cannot_be_listed_is_damage(
    tmp_path: Path, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a model; the ones beside it are found."""
    (tmp_path / "store" / "locked").mkdir()
    original = os.scandir

    def scandir(path: os.PathLike[str]) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in scandir(path)])  # type: ignore[attr-defined]
    scan = ModelStore([tmp_path / "store"]).scan()
    assert [manifest.name for manifest in scan.models.values()] == ["decoder"]
    assert [(damage.name, "cannot be listed" in str(damage.problem)) for damage in scan.damaged] == [("locked", True)]
