"""The models there are: by name, alias and identity from `catalog`; their tokenizers from the models directories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import structlog

from llmos.infra.stages.follower import Table
from llmos.pipelines.models.store import ModelStore
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas import topics
from llmos.schemas.catalog import CATALOG, Alias, Model
from llmos.schemas.errors import ModelDamaged
from llmos.services.verify.checking import Counted

log = structlog.get_logger()


class ModelDirectory:
    """What `catalog` says, followed live."""

    def __init__(self, characters_per_token: float) -> None:
        self.table = Table(topics.CATALOG, CATALOG, self._changed)
        self._names: dict[str, str] = {}
        """Name or alias → identity."""
        self._tokenizers: dict[str, Tokenizer] = {}
        self._characters_per_token = characters_per_token

    def load_tokenizers(self, store: ModelStore) -> None:
        """Loads the tokenizers of the models directories; reads and hashes files, so call it in a thread."""
        for identity, manifest in store.scan().models.items():
            try:
                self._tokenizers[identity] = Tokenizer.load(manifest)
            except ModelDamaged as problem:
                log.warning("tokenizer_unusable", model=manifest.name, error=str(problem))

    def find(self, name: str) -> Model | None:
        """By identity, name or alias; None where nothing has that name."""
        row = self.table.rows.get(self._names.get(name, name))
        return row if isinstance(row, Model) else None

    def count(self, model: Model, texts: Sequence[str]) -> Counted:
        """Tokens of `texts`; estimated where the model's tokenizer is not at hand."""
        tokenizer = self._tokenizers.get(model.identity)
        if tokenizer is None:
            return Counted([math.ceil(len(text) / self._characters_per_token) for text in texts], exact=False)
        return Counted(tokenizer.count(list(texts)), exact=True)

    def _changed(self, key: str, row: Any | None) -> None:
        # Made aside and put in place at once: payloads are checked in threads, too.
        names: dict[str, str] = {}
        for message in self.table.rows.values():
            if isinstance(message, Model):
                names.setdefault(message.name, message.identity)
        for message in self.table.rows.values():
            if isinstance(message, Alias):
                names[message.name] = message.identity
        self._names = names
