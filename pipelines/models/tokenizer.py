"""Text to tokens and back, by the model's own tokenizer.json, which is verified before it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import tokenizers

from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged

REPLACEMENT = "\ufffd"
"""What decoding makes of bytes that are no character, or not yet."""
SEQUENCE_TOKENS = 4
"""A character has at most four bytes in UTF-8 and a token at least one, so no more tokens than this share one."""


class Tokenizer:
    """The tokenizer of a model. Encoding may be called from any thread."""

    def __init__(self, inner: tokenizers.Tokenizer, bos_id: int | None, eos_ids: frozenset[int]) -> None:
        self._inner = inner
        self.bos_id = bos_id
        """The token that begins a text, if the model has one."""
        self.eos_ids = eos_ids
        """Tokens that end a generation."""
        self.special_ids = frozenset(
            token for token, added in inner.get_added_tokens_decoder().items() if added.special
        )
        """Tokens that stand for no text."""

    @staticmethod
    def load(manifest: Manifest, longest: int | None = None) -> Tokenizer:
        """Reads the tokenizer, without padding; texts are cut to `longest` tokens (special ones counted), if given.

        Raises:
            ModelDamaged: a file is missing, has not the bytes of the manifest, or is no tokenizer.
        """
        try:
            inner = tokenizers.Tokenizer.from_buffer(_verified(manifest, "tokenizer.json"))
        except ValueError as problem:
            raise _damaged(manifest, f"tokenizer.json is no tokenizer: {problem}") from None
        inner.no_padding()
        inner.no_truncation()
        if longest is not None:
            inner.enable_truncation(longest)
        settings = _settings(manifest)
        bos_ids = _ids(manifest, "bos_token_id", settings)
        return Tokenizer(inner, min(bos_ids, default=None), _ids(manifest, "eos_token_id", settings))

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, added ones among them."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with the special ones that the tokenizer puts around it."""
        ids: list[int] = self._inner.encode(text).ids
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts))]

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, special ones counted."""
        return [len(encoding) for encoding in self._inner.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special ones have none, and bytes that are no character become U+FFFD."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))


class StreamDecoder:
    """Decodes tokens as they come. The texts of all calls, joined, are the decoded whole; none cuts a character.

    It looks at the last few tokens only, so a long stream costs no more per token than a short one. (A tokenizer with
    byte fallback turns a whole run of bytes into U+FFFD when its end is no character. The joined text then keeps the
    characters that were right and already out.)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        """The last tokens that are out, because decoding depends on what stands before, and then the held ones."""
        self._held = 0
        """How many tokens at the end of the window wait for the rest of their character."""
        self._out = 0
        """Characters of the window's text that are out."""

    def push(self, ids: Iterable[int]) -> str:
        """Takes tokens; gives the text that is now final, perhaps none."""
        new = [token for token in ids if token not in self._tokenizer.special_ids]
        if not new:
            return ""
        self._window += new
        self._held += len(new)
        text = self._tokenizer.decode(self._window)
        unfinished = text.endswith(REPLACEMENT)
        if unfinished and self._held < SEQUENCE_TOKENS:
            return ""
        # Held for longer than any character lasts: some bytes are wrong, and only the last may still become one.
        final = text[self._out : len(text) - unfinished]
        self._slide(unfinished)
        return final

    def finish(self) -> str:
        """The text that was held back; the decoder is as new."""
        rest = self._tokenizer.decode(self._window)[self._out :]
        self._window, self._held, self._out = [], 0, 0
        return rest

    def _slide(self, unfinished: bool) -> None:
        self._window = self._window[-SEQUENCE_TOKENS:]
        self._held = SEQUENCE_TOKENS - 1 if unfinished else 0
        self._out = len(self._tokenizer.decode(self._window)) - unfinished


def _verified(manifest: Manifest, relative: str) -> bytes:
    """The bytes of a file, hashed. Raises `ModelDamaged`."""
    file = next((file for file in manifest.files if file.path == relative), None)
    if file is None:
        raise _damaged(manifest, f"{relative} is missing")
    try:
        data = (manifest.directory / relative).read_bytes()
    except OSError as problem:
        raise _damaged(manifest, f"{relative}: {problem}") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(manifest, f"{relative} has changed since it was scanned")
    return data


def _settings(manifest: Manifest) -> list[dict[str, Any]]:
    """generation_config.json, if there is one, before config.json."""
    names = {file.path for file in manifest.files}
    found = [name for name in ("generation_config.json", "config.json") if name in names]
    try:
        return [msgspec.json.decode(_verified(manifest, name), type=dict[str, Any]) for name in found]
    except msgspec.DecodeError as problem:
        raise _damaged(manifest, f"its configuration is not a JSON object: {problem}") from None


def _ids(manifest: Manifest, field: str, settings: Sequence[dict[str, Any]]) -> frozenset[int]:
    """The token or tokens that the first file to have the field names. Raises `ModelDamaged`."""
    value: object = next((values[field] for values in settings if values.get(field) is not None), [])
    try:
        return frozenset(msgspec.convert(value if isinstance(value, list) else [value], list[int]))
    except msgspec.ValidationError:
        raise _damaged(manifest, f"{field} is {value!r} and not a token or a list of tokens") from None


def _damaged(manifest: Manifest, problem: str) -> ModelDamaged:
    return ModelDamaged(directory=str(manifest.directory), problem=problem)
