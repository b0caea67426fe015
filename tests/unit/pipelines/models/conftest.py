"""Shipped models, and copies of them to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import llmos
from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.pipelines.models.tokenizer import Tokenizer

DECODER = Path(llmos.__file__).parent / "models" / "shakespeare-decoder"


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A copy of the shipped decoder."""
    return Path(shutil.copytree(DECODER, tmp_path / "store" / "decoder"))


@pytest.fixture(scope="session")
def decoder_manifest() -> Manifest:
    """The manifest of the shipped decoder."""
    return make_manifest(DECODER, "shakespeare-decoder")


@pytest.fixture(scope="session")
def decoder_tokenizer(decoder_manifest: Manifest) -> Tokenizer:
    """The tokenizer of the shipped decoder."""
    return Tokenizer.load(decoder_manifest)
