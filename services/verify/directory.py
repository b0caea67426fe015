"""The models there are: by name, alias and identity from `catalog`; their tokenizers from the models directories."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import structlog

from llmos.infra.stages.follower import Table
from llmos.pipelines.models.naming import Names
from llmos.pipelines.models.store import ModelStore
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas import topics
from llmos.schemas.catalog import CATALOG, Model
from llmos.schemas.errors import ModelDamaged
from llmos.schemas.tasks import Prompt
from llmos.services.verify.checking import Counted

log = structlog.get_logger()

TURN_CHARACTERS = 32
"""What a chat template writes around a turn, about."""


class ModelDirectory:
    """What `catalog` says, followed live."""

    def __init__(self, characters_per_token: float) -> None:
        self.table = Table(topics.CATALOG, CATALOG, self._changed)
        self._names = Names([])
        self._tokenizers: dict[str, Tokenizer] = {}
        self._characters_per_token = characters_per_token

    def load_tokenizers(self, store: ModelStore, settle_seconds: float = 0.0) -> None:
        """Loads the tokenizers of the models directories that are new, and lets go those of models that are not there any
        more; may read and hash files, so call it in a thread."""
        tokenizers: dict[str, Tokenizer] = {}
        for identity, manifest in store.scan(settle_seconds).models.items():
            try:
                tokenizers[identity] = self._tokenizers.get(identity) or Tokenizer.load(manifest)
            except ModelDamaged as problem:
                log.warning("tokenizer_unusable", model=manifest.name, error=str(problem))
        self._tokenizers = tokenizers

    async def watch_tokenizers(self, store: ModelStore, seconds: float) -> None:
        """Follows the models directories, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            if await store.in_thread(store.changed):
                await store.in_thread(self.load_tokenizers, store, seconds)

    def resolve(self, name: str) -> Model:
        """By identity, name or alias. Raises `UnknownModel`, `ModelQuarantined`, `ModelGone`."""
        return self._names.resolve(name)

    def count(self, model: Model, texts: Sequence[Prompt]) -> Counted:
        """Tokens of texts and conversations; estimated where the model's tokenizer is not at hand."""
        tokenizer = self._tokenizers.get(model.identity)
        if tokenizer is None:
            return Counted([math.ceil(_characters(text) / self._characters_per_token) for text in texts], exact=False)
        return Counted(tokenizer.count(texts), exact=True)

    def _changed(self, key: str, row: Any | None) -> None:
        # Made aside and put in place at once: payloads are checked in threads, too.
        self._names = Names(self.table.rows.values())


def _characters(prompt: Prompt) -> int:
    """How long a prompt is; a turn of a conversation has its role and marks around it."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.content) + TURN_CHARACTERS for message in prompt)
