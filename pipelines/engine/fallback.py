"""Any causal model that `transformers` knows, run by its own code: correct for all, slower than those that run natively.

Configuration and weights are our own verified bytes: nothing is fetched, no code of a model directory runs, nothing is
unpickled. Each sequence has a cache of its own and is stepped alone, whatever its architecture keeps in there.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmos.pipelines.engine.faults import is_out_of_memory
from llmos.pipelines.engine.kvcache import Capacity, KvCache
from llmos.pipelines.engine.weights import tensor_bytes
from llmos.schemas.errors import ModelDamaged

_CACHES = ("past_key_values", "cache_params", "state")
"""What models call their cache, in their results as in their arguments."""
_CHOICES = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation")
"""Fields of a configuration that name code: some would fetch it. None is taken from a file."""


def _library() -> Any:
    # Importing it takes seconds and 200 MB, which workers without such a model do not pay.
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


class _Sequence:
    """What one sequence has said so far: its tokens are the truth, the cache can be made anew from them."""

    def __init__(self, tokens: Sequence[int] = (), cache: Any = None, last: torch.Tensor | None = None) -> None:
        self.tokens = list(tokens)
        self.cache = cache
        self.last = last
        """Logits (1, vocabulary) behind the last token."""


class SequenceCache(KvCache):
    """A cache of `transformers` for each slot. What it holds is reckoned, not measured: each architecture keeps other things."""

    def __init__(self, most: Capacity, token_bytes: int) -> None:
        super().__init__(most.slots, most.tokens, token_bytes)
        self._sequences: dict[int, _Sequence] = {}

    @property
    def resident_bytes(self) -> int:
        """Bytes of all tokens that were read."""
        return self.token_bytes * sum(len(sequence.tokens) for sequence in self._sequences.values())

    def at(self, slot: int) -> _Sequence:
        """The sequence in a slot."""
        return self._sequences.setdefault(slot, _Sequence())

    def move(self, source: int, target: int, length: int) -> None:
        """The sequence of slot `source` is in slot `target` from now on, as far as its first `length` positions."""
        moved = self._sequences.pop(source)
        self._sequences[target] = moved if len(moved.tokens) == length else _Sequence(moved.tokens[:length])

    def clear(self, slot: int) -> None:
        """Forgets a slot."""
        self._sequences.pop(slot, None)

    def _copy(self, source: int, target: int, length: int) -> None:
        self._sequences[target] = _Sequence(self._sequences[source].tokens[:length])

    def _resize(self, wanted: Capacity) -> None:
        self._sequences = {slot: kept for slot, kept in self._sequences.items() if slot < wanted.slots}


class FallbackModel:
    """A causal model of `transformers` behind the interface of those that run natively.

    Its hidden states are logits already, since models differ in what they do between the two.
    """

    def __init__(
        self, architecture: str, values: Mapping[str, Any], weights: dict[str, torch.Tensor], directory: object,
        device: torch.device, dtype: torch.dtype, *, context: int, kv_numbers_per_token: int,
    ) -> None:  # fmt: skip
        """`values`: its config.json; `weights` are emptied.

        Raises:
            ModelDamaged: `transformers` does not know it, or it is not what its configuration says.
            MemoryError, RuntimeError: there is no memory for it.
        """
        self.context = context
        self.kv_bytes_per_token = kv_numbers_per_token * dtype.itemsize
        self._model = _build(architecture, values, weights, directory, dtype).to(device)
        self.vocabulary = int(self._model.config.get_text_config().vocab_size)
        self._device = device
        parameters = inspect.signature(self._model.forward).parameters
        self._options = {
            name: value for name, value in (("use_cache", True), ("logits_to_keep", 1)) if name in parameters
        }
        self._step_by_step = bool(getattr(self._model, "_is_stateful", False))
        """Recurrent ones read several tokens at once only at the beginning."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of its weights and buffers."""
        return tensor_bytes((*self._model.parameters(), *self._model.buffers()))

    def new_cache(self, slots: int, tokens: int) -> SequenceCache:
        """An empty cache that grows up to `slots` sequences of `tokens` tokens. Raises `ValueError` beyond the context."""
        if tokens > self.context:
            raise ValueError(f"the model holds {self.context} tokens, not {tokens}")
        return SequenceCache(Capacity(slots, tokens), self.kv_bytes_per_token)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """Reads `tokens` at positions `start`…; the logits behind the last one, (1, vocabulary)."""
        cache.ensure(slot + 1, start + len(tokens))
        return self._read(_own(cache).at(slot), tokens, start)

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        """One token of each sequence in the slots from `first_slot` on; the logits behind them, (n, vocabulary)."""
        cache.ensure(first_slot + len(tokens), max(positions) + 1)
        slots = _own(cache)
        steps = zip(tokens, positions, strict=True)
        return torch.cat(
            [self._read(slots.at(first_slot + i), [token], position) for i, (token, position) in enumerate(steps)]
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """They are what the other calls gave."""
        return hidden

    def _read(self, sequence: _Sequence, tokens: Sequence[int], start: int) -> torch.Tensor:
        end = start + len(tokens)
        if sequence.last is not None and sequence.tokens[start:] == list(tokens) and len(sequence.tokens) == end:
            return sequence.last  # the same call again: a cache must not read a token twice
        if len(sequence.tokens) < start:
            raise ValueError(f"position {start} is to be read and {len(sequence.tokens)} are in the cache")
        if len(sequence.tokens) > start:
            sequence.tokens, sequence.cache = sequence.tokens[:start], None
        # where the cache was lost, by an error within the model or by a copy, it is made anew from all tokens
        todo, cache = (tokens, sequence.cache) if sequence.cache is not None else ([*sequence.tokens, *tokens], None)
        sequence.cache = sequence.last = None
        if self._step_by_step and cache is not None:
            for token in todo:
                logits, cache = self._forward([token], cache)
        else:
            logits, cache = self._forward(todo, cache)
        sequence.tokens, sequence.cache, sequence.last = [*sequence.tokens, *tokens], cache, logits
        return logits

    def _forward(self, tokens: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits (1, vocabulary) behind the last of `tokens`, and the cache with them in; None where it keeps none."""
        ids = torch.tensor([list(tokens)], device=self._device)
        given = {} if cache is None else {cache[0]: cache[1]}
        result = self._model(input_ids=ids, **self._options, **given)
        made = next((name for name in _CACHES if result.get(name) is not None), None)
        return result["logits"][0, -1:], None if made is None else (made, result[made])


def _own(cache: KvCache) -> SequenceCache:
    if not isinstance(cache, SequenceCache):
        raise TypeError(f"a {type(cache).__name__} is not a cache that this model made")
    return cache


def _build(
    architecture: str,
    values: Mapping[str, Any],
    weights: dict[str, torch.Tensor],
    directory: object,
    dtype: torch.dtype,
) -> Any:
    """The model with its weights, ready to be asked."""
    library = _library()
    try:
        chosen = {name: value for name, value in values.items() if name not in _CHOICES}
        config = library.AutoConfig.for_model(**chosen)
        kind = library.AutoModelForCausalLM._model_mapping[type(config)]
    except (KeyError, ValueError, TypeError) as problem:
        raise _damaged(directory, f"transformers cannot read its config.json: {problem}") from problem
    if kind.__name__ != architecture:
        raise _damaged(directory, f"it is a {architecture}, and its config.json that of a {kind.__name__}")
    try:
        model, found = kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    except Exception as problem:
        if is_out_of_memory(problem):
            raise
        raise _damaged(directory, f"transformers cannot make it: {type(problem).__name__}: {problem}") from problem
    finally:
        weights.clear()
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found[what]:
            raise _damaged(directory, f"{what.replace('_', ' ')}: {min(map(str, found[what]))}")
    return model.eval()


def _damaged(directory: object, problem: str) -> ModelDamaged:
    return ModelDamaged(directory=directory, problem=problem)
