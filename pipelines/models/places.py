"""Where models lie below a models directory: folders of folders, and caches as the Hugging Face hub's library keeps them.

A hub cache (https://huggingface.co/docs/huggingface_hub/guides/manage-cache) has a folder `models--org--name` per model:
`snapshots/<revision>` holds links into `blobs`, and `refs/main` says which revision is the present one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmos.pipelines.models.contents import walk
from llmos.pipelines.models.hashing import Stamp

CONFIG = "config.json"
"""A folder that has one is a model."""
DEPTH = 3
"""Folders between a models directory and a model, at most."""
HUB_PREFIX = "models--"
REVISION_CHARACTERS = 8

Look = tuple[tuple[str, Stamp | None], ...]
"""Stamps of all files of a model directory, by their paths in it; none of one that cannot be reached."""


class Place(NamedTuple):
    """A folder that is a model, or should be."""

    directory: Path
    name: str
    root: Path
    """The models directory: links must stay inside of it."""
    blobs: Path | None = None
    """In a hub cache: where the links of the folder lead."""
    licence: str = ""
    """Where it is known better than by the model's card."""


def places_in(root: Path) -> Iterator[Place]:
    """The models at or below `root`, which exists; in a fixed order."""
    root = root.absolute()
    if _is_model(root):
        yield Place(root, _name(root, root), root)
    elif _is_hub_folder(root):
        yield from _snapshots(root, root)
    else:
        yield from _below(root, root, DEPTH)


def _below(folder: Path, root: Path, depth: int) -> Iterator[Place]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        yield Place(folder, _name(folder, root), root)  # it may be a model; whoever reads it says what is wrong
        return
    for child in children:
        if child.name.startswith(".") or not os.path.isdir(child):
            continue
        if _is_hub_folder(child):
            yield from _snapshots(child, root)
        elif _is_model(child):
            yield Place(child, _name(child, root), root)
        elif depth > 1 and not child.is_symlink():
            yield from _below(child, root, depth - 1)


def _name(folder: Path, root: Path) -> str:
    return root.name if folder == root else folder.relative_to(root).as_posix()


def _is_model(folder: Path) -> bool:
    # a link to nothing counts: such a model is damaged, not absent
    return os.path.lexists(folder / CONFIG)


def _is_hub_folder(folder: Path) -> bool:
    return folder.name.startswith(HUB_PREFIX) and os.path.isdir(folder / "snapshots")


def _snapshots(folder: Path, root: Path) -> Iterator[Place]:
    """The revision of `refs/main` under the model's own name, the others as `name@revision`."""
    name = folder.name.removeprefix(HUB_PREFIX).replace("--", "/")
    main = _main_revision(folder)
    for snapshot in sorted((folder / "snapshots").glob("*")):
        if _is_model(snapshot):
            own = name if snapshot.name == main else f"{name}@{snapshot.name[:REVISION_CHARACTERS]}"
            yield Place(snapshot, own, root, folder / "blobs")


def _main_revision(folder: Path) -> str:
    try:
        return (folder / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # there need not be one: a revision may have been fetched by its own name


def look_at(place: Place) -> Look:
    """The stamps of all that is in a place; unfinished downloads into its hub cache are in it, too."""
    try:
        found = [(path.relative_to(place.directory).as_posix(), _stamp(path)) for path in walk(place.directory)]
    except OSError:
        return (("", None),)  # it cannot be listed, which whoever reads it will say
    if place.blobs is not None and place.blobs.is_dir():
        unfinished = sorted(place.blobs.glob("*.incomplete"))
        found += [(f"blobs/{path.name}", _stamp(path)) for path in unfinished]
    return tuple(found)


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path.stat())
    except (OSError, ValueError):
        return None  # a link to nothing, or one that is gone by now
