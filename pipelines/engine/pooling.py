"""From the hidden states of a text's tokens to one vector, as the model's own sentence-transformers files say."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import msgspec
import torch

from llmos.pipelines.engine.weights import has_file, read_json, read_verified
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged

Mode = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""By the names of sentence-transformers: the last but one weights each token by its place, from 1."""
_MODES: tuple[Mode, ...] = get_args(Mode)
_FLAGS: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(NamedTuple):
    """How the vectors of a text's tokens become one."""

    mode: Mode = "mean"
    normalise: bool = False
    max_tokens: int | None = None
    """Longer texts are cut to this many tokens, special ones included; None: to the model's positions."""

    def pool(self, hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """(texts, tokens, width) and which places are tokens (texts, tokens) → (texts, width), in float32."""
        vectors = self._pool(hidden, there)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalise else vectors

    def _pool(self, hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        if self.mode == "cls":
            return hidden[:, 0].float()
        if self.mode == "lasttoken":
            return hidden[torch.arange(len(hidden), device=hidden.device), there.sum(1) - 1].float()
        if self.mode == "max":
            return hidden.masked_fill(~there.unsqueeze(-1), float("-inf")).amax(1).float()
        weights = there.unsqueeze(-1).float()
        if self.mode == "weightedmean":
            weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        total = weights.sum(1).sqrt() if self.mode == "mean_sqrt_len_tokens" else weights.sum(1)
        return (hidden.float() * weights).sum(1) / total


def read_pooling(manifest: Manifest) -> Pooling:
    """From `modules.json` and what it names; without it the mean of all tokens, as it is.

    Raises:
        ModelDamaged: a file is damaged, or asks for a pooling or a module that is not computed here.
    """
    max_tokens = _max_tokens(manifest)
    if not has_file(manifest, "modules.json"):
        return Pooling(max_tokens=max_tokens)
    mode: Mode = "mean"
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
        modules = msgspec.json.decode(read_verified(manifest, "modules.json"), type=list[dict[str, Any]])
        return [(str(module["type"]).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as problem:
        raise _damaged(manifest, f"modules.json: {problem}") from problem


def _mode(manifest: Manifest, config: dict[str, Any]) -> Mode:
    """The one pooling that is switched on: older files have a flag for each, newer ones name it."""
    named = config.get("pooling_mode")
    flags = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    chosen = [named] if named is not None else [_FLAGS.get(name, name) for name in sorted(flags)]
    for mode in _MODES:
        if chosen == [mode]:
            return mode
    raise _damaged(manifest, f"pooling {chosen!r} is not supported; one of {', '.join(_MODES)} is")


def _damaged(manifest: Manifest, problem: str) -> ModelDamaged:
    return ModelDamaged(directory=manifest.directory, problem=problem)
