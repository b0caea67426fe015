"""Small files of a model, read only if they still have the bytes of its manifest."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged


def has_file(manifest: Manifest, relative: str) -> bool:
    """Whether the manifest has this file."""
    return any(file.path == relative for file in manifest.files)


def verified_bytes(manifest: Manifest, relative: str) -> bytes:
    """The bytes of a file, hashed. Raises `ModelDamaged` where it is missing or has changed."""
    file = next((file for file in manifest.files if file.path == relative), None)
    if file is None:
        raise damaged(manifest, f"{relative} is missing")
    try:
        data = (manifest.directory / relative).read_bytes()
    except OSError as problem:
        raise damaged(manifest, f"{relative}: {problem}") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise damaged(manifest, f"{relative} has changed since it was scanned")
    return data


def verified_object(manifest: Manifest, relative: str) -> dict[str, Any]:
    """The JSON object in a file; empty where the manifest has no such file. Raises `ModelDamaged`."""
    if not has_file(manifest, relative):
        return {}
    try:
        return msgspec.json.decode(verified_bytes(manifest, relative), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise damaged(manifest, f"{relative} is not a JSON object: {problem}") from None


def damaged(manifest: Manifest, problem: str) -> ModelDamaged:
    """The error to raise."""
    return ModelDamaged(directory=str(manifest.directory), problem=problem)
