"""From the hidden states of a text's tokens to one vector, as the model's own sentence-transformers files say."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
import torch

from llmos.pipelines.engine.weights import has_file, read_json, read_verified
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged


class Pooling(NamedTuple):
    """How the vectors of a text's tokens become one."""

    mode: Literal["mean", "cls"] = "mean"
    normalise: bool = False
    max_tokens: int | None = None
    """Longer texts are cut to this many tokens, special ones included; None: to the model's positions."""

    def pool(self, hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """(texts, tokens, width) and which places are tokens (texts, tokens) → (texts, width), in float32."""
        if self.mode == "cls":
            vectors = hidden[:, 0].float()
        else:
            weights = there.unsqueeze(-1).float()
            vectors = (hidden.float() * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalise else vectors


def read_pooling(manifest: Manifest) -> Pooling:
    """From `modules.json` and what it names; without it the mean of all tokens, as it is.

    Raises:
        ModelDamaged: a file is damaged, or asks for a pooling or a module that is not computed here.
    """
    max_tokens = _max_tokens(manifest)
    if not has_file(manifest, "modules.json"):
        return Pooling(max_tokens=max_tokens)
    mode: Literal["mean", "cls"] = "mean"
    normalise = False
    for kind, path in _modules(manifest):
        if kind == "Pooling":
            mode = _mode(manifest, read_json(manifest, f"{path}/config.json"))
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise _damaged(manifest, f"module {kind} is not supported")
    return Pooling(mode, normalise, max_tokens)


def _max_tokens(manifest: Manifest) -> int | None:
    """`max_seq_length` of sentence-transformers, else the tokenizer's `model_max_length`; None where neither says."""
    for path, field in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        value = read_json(manifest, path).get(field) if has_file(manifest, path) else None
        if isinstance(value, int) and value >= 3:
            return value
    return None


def _modules(manifest: Manifest) -> list[tuple[str, str]]:
    """(class, directory) of each module, in order."""
    try:
        modules = msgspec.json.decode(bytes(read_verified(manifest, "modules.json")), type=list[dict[str, Any]])
        return [(str(module["type"]).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as problem:
        raise _damaged(manifest, f"modules.json: {problem}") from problem


def _mode(manifest: Manifest, config: dict[str, Any]) -> Literal["mean", "cls"]:
    """The one pooling that is switched on: older files have a flag for each, newer ones name it."""
    named = config.get("pooling_mode")
    flags = {name for name, on in config.items() if name.startswith("pooling_mode_") and on is True}
    chosen = named if isinstance(named, str) else " and ".join(sorted(flags))
    if chosen in ("mean", "pooling_mode_mean_tokens"):
        return "mean"
    if chosen in ("cls", "pooling_mode_cls_token"):
        return "cls"
    raise _damaged(manifest, f"pooling {chosen or named!r} is not supported; mean and cls are")


def _damaged(manifest: Manifest, problem: str) -> ModelDamaged:
    return ModelDamaged(directory=manifest.directory, problem=problem)
