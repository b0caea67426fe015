"""Which files of a model directory count, and what may not be there: pickles, code, links that lead out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from llmos.schemas.errors import ModelDamaged

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_BYTES = 64 * 1024 * 1024
"""The longest JSON file that is read whole, in bytes."""

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
"""Suffixes of files that are pickles or usually are; reading one can run code."""
CODE_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "trust_remote_code"})
"""Configuration keys that ask for code from the model's author."""
CONFIGURATIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Small files that decide how a model runs, in the model directory itself."""


class Contents:
    """A model directory, opened: every file is read once, and hashed as it is read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.root = directory.resolve(strict=True)
        except OSError as problem:
            raise self.damaged(str(problem)) from None
        self.hashes: dict[str, tuple[int, str]] = {}
        """Size in bytes and SHA-256 of each file that counts, by its path in the directory."""

    def damaged(self, problem: str) -> ModelDamaged:
        """The error to raise."""
        return ModelDamaged(directory=str(self.directory), problem=problem)

    def reject_unsafe(self) -> None:
        """Raises `ModelDamaged` for a pickle, or a link that leads out of the directory or nowhere."""
        try:
            paths = list(_walk(self.root))
        except OSError as problem:
            raise self.damaged(f"it cannot be listed: {problem}") from None
        for path in paths:
            relative = path.relative_to(self.root).as_posix()
            if path.is_symlink():
                self.inside(relative)
            if path.suffix.lower() in PICKLES:
                raise self.damaged(f"{relative} may be a pickle, which is never loaded; convert it to safetensors")

    def inside(self, relative: str) -> Path:
        """The file's place, which must be inside of the directory. Raises `ModelDamaged`."""
        path = self.root / relative
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise self.damaged(f"{relative} is missing") from None
        if not target.is_relative_to(self.root):
            raise self.damaged(f"{relative} leads out of the directory, to {target}")
        return path

    def has(self, relative: str) -> bool:
        """Whether the file is there."""
        return (self.root / relative).is_file()

    def read(self, relative: str) -> bytes:
        """The bytes of a small file, noted as one that counts. Raises `ModelDamaged`."""
        path = self.inside(relative)
        try:
            with path.open("rb") as file:
                data = file.read(JSON_BYTES + 1)
        except OSError as problem:
            raise self.damaged(f"{relative}: {problem}") from None
        if len(data) > JSON_BYTES:
            raise self.damaged(f"{relative} has more than {JSON_BYTES} bytes")
        self.hashes[relative] = (len(data), hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, relative: str) -> Any:
        """The value in a JSON file, noted as one that counts. Raises `ModelDamaged`."""
        try:
            return msgspec.json.decode(self.read(relative))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self.damaged(f"{relative} is not JSON: {problem}") from None

    def configuration(self, relative: str) -> Any:
        """The same, of a file that must not ask for code of its own."""
        value = self.read_json(relative)
        key = _code_key(value)
        if key is not None:
            raise self.damaged(f"{relative} asks for code that comes with the model ({key}); such code is never run")
        return value

    def mapping(self, relative: str) -> dict[str, Any]:
        """The same, of a file that holds a JSON object."""
        value = self.configuration(relative)
        if not isinstance(value, dict):
            raise self.damaged(f"{relative} is not a JSON object")
        return value


def _walk(root: Path) -> Iterator[Path]:
    """Every file and every link below `root`; links are not followed, hidden folders are nobody's."""
    for folder, folders, files in os.walk(root, onerror=_fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        yield from (here / name for name in folders if (here / name).is_symlink())
        yield from (here / name for name in sorted(files))


def _fail(problem: OSError) -> None:
    raise problem


def _code_key(value: object) -> str | None:
    """The first key, at any depth, that asks for code."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            found = CODE_KEYS & item.keys()
            if found:
                return min(found)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return None
