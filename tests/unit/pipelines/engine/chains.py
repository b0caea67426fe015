"""Decoders whose next token is known, and that fail where they are told to; and ways to run an engine to its end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from llmos.pipelines.engine.causal import CausalModel
from llmos.pipelines.engine.causal_config import read_causal_config
from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.kvcache import Capacity, KvCache, SlotCache
from llmos.pipelines.engine.sequences import Event
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.tasks import GenerateInput

GENEROUS = 1 << 30


class Chain:
    """A model whose next token is `after[token]`; reading `nan` gives NaN, a call in which `bomb` is read raises."""

    vocabulary = 320
    context = 1024
    resident_bytes = 0
    kv_bytes_per_token = 8

    def __init__(self, after: dict[int, int], nan: int = -1, bomb: int = -1) -> None:
        self._after = after
        self._nan = nan
        self._bomb = bomb
        self.steps: list[int] = []
        """The batch of each decode call."""
        self.chunks: list[int] = []
        """Tokens of each prefill call."""
        self.before_decode: Callable[[int], None] = lambda batch: None
        """May raise."""

    def new_cache(self, slots: int, tokens: int) -> SlotCache:
        return SlotCache(1, 1, 1, Capacity(slots, tokens), torch.device("cpu"), torch.float32)

    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        cache.ensure(slot + 1, start + len(tokens))
        self.chunks.append(len(tokens))
        return self._read(tokens)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        self.steps.append(len(tokens))
        self.before_decode(len(tokens))
        cache.ensure(first_slot + len(tokens), max(positions) + 1)
        return self._read(tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(hidden), self.vocabulary), -9.0)
        for row, token in enumerate(hidden[:, 0].int().tolist()):
            logits[row, self._after.get(token, 1)] = 9.0
            if token == self._nan:
                logits[row] = float("nan")
        return logits

    def _read(self, tokens: Sequence[int]) -> torch.Tensor:
        if self._bomb in tokens:
            raise RuntimeError("boom")
        return torch.tensor(tokens, dtype=torch.float32)[:, None]


def chain_of(tokenizer: Tokenizer, text: str) -> tuple[dict[int, int], list[int]]:
    """The chain that says `text` and then ends, letter by letter, and its tokens; no letter may repeat."""
    tokens = [tokenizer.encode(letter) for letter in text]
    flat = [token for each in tokens for token in each]
    assert len(set(flat)) == len(flat)
    return dict(zip(flat, [*flat[1:], 1], strict=True)), flat


def chain_engine(model: Chain, tokenizer: Tokenizer, slots: int, context: int = 64, **options: Any) -> Engine:
    return Engine(
        model, tokenizer, slots=slots, context=context, **{"cache_bytes": GENEROUS, "name": "chain", **options}
    )


def engine_of(manifest: Manifest, slots: int = 4, **options: Any) -> Engine:
    """An engine that runs a saved Llama."""
    config = read_causal_config(manifest.architecture, read_json(manifest, "config.json"), manifest.directory)
    model = CausalModel(config, load_weights(manifest), manifest.directory, torch.device("cpu"))
    options = {"cache_bytes": GENEROUS, "name": manifest.name, **options}
    return Engine(model, Tokenizer.load(manifest), slots=slots, context=config.context, **options)


def request(max_tokens: int = 12, **fields: Any) -> GenerateInput:
    return GenerateInput(prompt="", max_tokens=max_tokens, **fields)


def drain(engine: Engine) -> list[Event]:
    """Steps until all are done; a sequence that never ends fails the test."""
    events: list[Event] = []
    for _ in range(500):
        if not engine.active:
            return events
        events += engine.step()
    raise AssertionError(f"{engine.keys()} did not end")


def alone(manifest: Manifest, prompt: str | list[int], request: GenerateInput) -> tuple[str, str]:
    """What a sequence says that has the engine to itself."""
    engine = engine_of(manifest, slots=1)
    engine.add("x", prompt, request)
    return outcome(drain(engine), "x")


def outcome(events: list[Event], key: Hashable) -> tuple[str, str]:
    """The joined text and the finish of a sequence; checks that its events have neither gap nor repeat."""
    mine, place = [event for event in events if event.key == key], 0
    for event in mine:
        assert event.first_token == place
        place += event.tokens
    assert [bool(event.finish or event.error) for event in mine] == [False] * (len(mine) - 1) + [True]
    return "".join(event.text for event in mine), mine[-1].finish


def errors(events: list[Event]) -> dict[Hashable, str]:
    """Key → code of what ended it."""
    return {event.key: event.error.code for event in events if event.error is not None}
