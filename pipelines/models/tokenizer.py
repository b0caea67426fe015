"""Text to tokens and back, by the model's own tokenizer.json, which is verified before it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import tokenizers

from llmos.pipelines.models.chat import ChatTemplate, read_chat_template
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.verified import damaged, verified_bytes, verified_object
from llmos.schemas.errors import NoChatTemplate
from llmos.schemas.tasks import ChatMessage, Prompt

REPLACEMENT = "\ufffd"
"""What decoding makes of bytes that are no character, or not yet."""
SEQUENCE_TOKENS = 4
"""A character has at most four bytes in UTF-8 and a token at least one, so no more tokens than this share one."""


class Tokenizer:
    """The tokenizer of a model. Encoding may be called from any thread."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        bos_id: int | None,
        eos_ids: frozenset[int],
        chat: ChatTemplate | None = None,
        name: str = "",
    ) -> None:
        self._inner = inner
        self._chat = chat
        self._name = name
        self.bos_id = bos_id
        """The token that begins a text, if the model has one."""
        self.eos_ids = eos_ids
        """Tokens that end a generation."""
        self.special_ids = frozenset(
            token for token, added in inner.get_added_tokens_decoder().items() if added.special
        )
        """Tokens that stand for no text."""
        self._anchor = self.encode_bare("a")[-1:]
        """An ordinary token, to see what another adds to it."""
        self._token_texts: dict[int, str] = {}

    @staticmethod
    def load(manifest: Manifest, longest: int | None = None) -> Tokenizer:
        """Reads the tokenizer, without padding; texts are cut to `longest` tokens (special ones counted), if given.

        Raises:
            ModelDamaged: a file is missing, has not the bytes of the manifest, or is no tokenizer.
        """
        try:
            inner = tokenizers.Tokenizer.from_buffer(verified_bytes(manifest, "tokenizer.json"))
        except ValueError as problem:
            raise damaged(manifest, f"tokenizer.json is no tokenizer: {problem}") from None
        inner.no_padding()
        inner.no_truncation()
        if longest is not None:
            inner.enable_truncation(longest)
        settings = [verified_object(manifest, name) for name in ("generation_config.json", "config.json")]
        return Tokenizer(
            inner,
            min(_ids(manifest, "bos_token_id", settings), default=None),
            _ids(manifest, "eos_token_id", settings),
            read_chat_template(manifest),
            manifest.name,
        )

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, added ones among them."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with the special ones that the tokenizer puts around it."""
        ids: list[int] = self._inner.encode(text).ids
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """The tokens of a text and no others; special ones that are written out in it are known as such."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts))]

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """The tokens of a text, or of a conversation. Raises what `chat_prompt` raises."""
        if isinstance(prompt, str):
            return self.encode(prompt)
        return self.encode_bare(self.chat_prompt(prompt))  # the template has written the special tokens already

    def chat_prompt(self, messages: Sequence[ChatMessage]) -> str:
        """A conversation as the model's own chat template writes it, up to where the model is to answer.

        Raises:
            NoChatTemplate: the model has none.
            InvalidRequest: the template does not take this conversation; in its own words.
        """
        if self._chat is None:
            raise NoChatTemplate(model=self._name)
        return self._chat.render(messages)

    def count(self, prompts: Sequence[Prompt]) -> list[int]:
        """How many tokens each text or conversation has, special ones counted. Raises what `chat_prompt` raises."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        counts = iter([len(encoding) for encoding in self._inner.encode_batch_fast(texts)] if texts else [])
        return [next(counts) if isinstance(prompt, str) else len(self.prompt_tokens(prompt)) for prompt in prompts]

    def token_text(self, token: int) -> str:
        """What one token adds to a text; U+FFFD where it is no whole character, nothing where it stands for no text."""
        text = self._token_texts.get(token)
        if text is None:
            # alone, a decoder may take off the space that the token begins with
            before = self.decode(self._anchor)
            text = self._token_texts[token] = self.decode([*self._anchor, token])[len(before) :]
        return text

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


def _ids(manifest: Manifest, field: str, settings: Sequence[dict[str, Any]]) -> frozenset[int]:
    """The token or tokens that the first file to have the field names. Raises `ModelDamaged`."""
    value: object = next((values[field] for values in settings if values.get(field) is not None), [])
    try:
        return frozenset(msgspec.convert(value if isinstance(value, list) else [value], list[int]))
    except msgspec.ValidationError:
        raise damaged(manifest, f"{field} is {value!r} and not a token or a list of tokens") from None
