"""The text of a run: read, turned into tokens, split, and drawn from in windows."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmos.pipelines.training.recipe import Recipe
from llmos.schemas.errors import OperatorError

END_MARK = "<|endoftext|>"
END_MARK_ID = 0
VALIDATION_FRACTION = 0.1


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, gzip or plain. Raises `OperatorError` when it cannot be read."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise OperatorError(problem=f"the text {path} cannot be read: {problem}") from None


def digest(text: str) -> str:
    """SHA-256 of the text, in hex: a run resumes on the same text only."""
    return hashlib.sha256(text.encode()).hexdigest()


def split(text: str) -> tuple[str, str]:
    """What is trained on, and what is only validated on: the last tenth."""
    cut = int(len(text) * (1 - VALIDATION_FRACTION))
    return text[:cut], text[cut:]


def train_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """Byte-level byte-pair encoding (arXiv:1508.07909): every byte is a token, so any text can be encoded.

    Of `text` it sees the part that is trained on; the validation loss is that of unseen text in every respect.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_MARK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(split(text)[0].splitlines(keepends=True), trainer=trainer)
    return tokenizer


@dataclass(frozen=True, slots=True)
class Corpus:
    """The two parts of the text as token ids."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    speeches: NDArray[np.int64]
    """Where speeches begin in `train`: behind an empty line."""
    validation_bytes: int

    @staticmethod
    def of(text: str, tokenizer: Tokenizer, recipe: Recipe) -> Corpus:
        """Splits and encodes. Raises `OperatorError` when the text is too short for the recipe's context."""
        head, tail = split(text)
        train = np.asarray(tokenizer.encode(head).ids, dtype=np.int64)
        validation = np.asarray(tokenizer.encode(tail).ids, dtype=np.int64)
        if min(len(train), len(validation)) <= recipe.context + 1:
            raise OperatorError(problem=f"the text is too short for windows of {recipe.context} tokens")
        newline = tokenizer.token_to_id("Ċ")  # how the byte-level alphabet writes a line feed
        speeches = np.flatnonzero((train[:-1] == newline) & (train[1:] == newline)) + 2
        return Corpus(
            train=train,
            validation=validation,
            speeches=speeches[speeches < len(train) - recipe.context],
            validation_bytes=len(tail.encode()),
        )

    def draw(self, random: np.random.Generator, recipe: Recipe) -> torch.Tensor:
        """A batch of windows, (batch, context + 1)."""
        rows = []
        for _ in range(recipe.batch):
            if len(self.speeches) and random.random() < recipe.start_fraction:
                start = int(random.choice(self.speeches))
                rows.append(np.concatenate(([END_MARK_ID], self.train[start : start + recipe.context])))
            else:
                start = int(random.integers(0, len(self.train) - recipe.context))
                rows.append(self.train[start : start + recipe.context + 1])
        return torch.from_numpy(np.stack(rows))

    def validation_windows(self, recipe: Recipe) -> torch.Tensor:
        """The validation text in windows that follow each other, (count, context + 1); the rest is left out."""
        count = (len(self.validation) - 1) // recipe.context
        rows = [self.validation[i * recipe.context : (i + 1) * recipe.context + 1] for i in range(count)]
        return torch.from_numpy(np.stack(rows))

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The validation loss in a unit that does not depend on the tokenizer."""
        return nats_per_token * len(self.validation) / self.validation_bytes / float(np.log(2))
