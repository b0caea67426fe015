"""From logits to the next token, by each sequence's own seeded generator."""

from __future__ import annotations

import torch

from llmos.schemas.tasks import GenerateInput


class Sampler:
    """Draws the tokens of one sequence; equal seeds and equal logits give equal tokens, whatever runs beside it."""

    def __init__(self, request: GenerateInput) -> None:
        self.greedy = request.temperature == 0.0
        self._temperature = request.temperature
        self._top_k = request.top_k
        self._top_p = request.top_p
        self._generator = torch.Generator()
        self._generator.manual_seed(request.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token of finite `logits` (vocabulary,): the likeliest at temperature 0, else a draw.

        In the order temperature, top_k, top_p, as `transformers` does it. top_p keeps the fewest tokens whose
        probabilities reach it (Holtzman et al. 2020, arXiv:1904.09751); the likeliest is always among them.
        """
        if self.greedy:
            return int(logits.argmax())
        kept = min(self._top_k or logits.numel(), logits.numel())
        values, tokens = logits.float().cpu().topk(kept)
        # the largest is subtracted first, so that a small temperature cannot overflow
        probabilities = torch.softmax((values - values[0]) / self._temperature, dim=0)
        if self._top_p < 1.0:
            before = probabilities.cumsum(0) - probabilities
            probabilities = probabilities.masked_fill(before >= self._top_p, 0.0)
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(tokens[drawn])
