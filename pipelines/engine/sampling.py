"""From logits to the next tokens of a whole batch: each sequence by its own request and seed, all in one go.

A draw is a race (Gumbel-max, Maddison et al. 2014, arXiv:1411.0030): every token gets an exponential variate of its own,
and the one with the largest probability ÷ variate wins. The variates are a function of seed, place and token. So the draw is that of the distribution, it does not depend on the company, and a last bit that differs between a
batch and a sequence alone changes a token only where two of the racers nearly tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmos.pipelines.engine.penalties import Penalties, has_penalties
from llmos.pipelines.engine.variates import exponential_variates, key_of
from llmos.schemas.tasks import GenerateInput

LEAST_CANDIDATES = 64
"""How many of the likeliest tokens are looked at first where a draw is among the likeliest only."""
TRIES = 6
"""How many that win among all tokens are looked at before the likeliest are sorted."""
_LEAST_TEMPERATURE = 1e-30
"""Below, float32 knows no difference from 0."""


class Draw(NamedTuple):
    """A token that was chosen."""

    token: int
    logprob: float = 0.0
    """Under softmax of the raw logits; 0 where it was not asked for."""
    top: Sequence[tuple[int, float]] = ()
    """The likeliest tokens at this place and their log-probabilities, as many as were asked for."""


class Sampler:
    """How the tokens of one sequence are chosen."""

    def __init__(self, request: GenerateInput, prompt: Sequence[int], choice: int = 0) -> None:
        self.greedy = request.temperature == 0.0
        self.temperature = max(request.temperature, _LEAST_TEMPERATURE)
        self.top_k = request.top_k
        self.top_p = request.top_p
        self.min_p = request.min_p
        self.logprobs = request.logprobs
        self.penalties = Penalties(request, prompt) if has_penalties(request) else None
        self._seed = request.seed + choice
        self._drawn = 0

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is all that is wanted."""
        return self.greedy and self.penalties is None and self.logprobs is None

    def add(self, token: int) -> None:
        """The token of this place is taken, and the next one is due."""
        self._drawn += 1
        if self.penalties is not None:
            self.penalties.add(token)

    @property
    def key(self) -> int:
        """Of the variates for this place."""
        return key_of(self._seed, self._drawn)


@torch.inference_mode()
def draw_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Draw | None]:
    """The next token of each sequence, from its row of `logits` (n, vocabulary); None where the row is not finite.

    At temperature 0 the likeliest, else a draw; in the order penalties, temperature, top_k, top_p, min_p, as
    `transformers` does it. top_p keeps the fewest tokens whose probabilities reach it (Holtzman et al. 2020,
    arXiv:1904.09751), min_p those within a share of the likeliest (Nguyen et al. 2024, arXiv:2407.01082); the likeliest
    is always among them. What ties with the last one that top_k or top_p keeps is kept, too, so that nothing depends on
    how equal numbers are sorted. Changes nothing: a step may be repeated.
    """
    largest, likeliest = logits.max(dim=-1)  # NaN and infinity come through, so this pass finds them, too
    finite = [math.isfinite(value) for value in largest.tolist()]
    tokens: list[int] = likeliest.tolist()
    special = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.plain]
    draws: list[Draw | None] = [Draw(token) if fine else None for token, fine in zip(tokens, finite, strict=True)]
    if special:
        mine = logits.to(torch.float32, copy=True) if len(special) == len(draws) else logits[special].float()
        chosen = _choose(mine, [samplers[row] for row in special], [tokens[row] for row in special])
        for row, draw in zip(special, chosen, strict=True):
            draws[row] = draw
    return draws


def _choose(rows: torch.Tensor, samplers: Sequence[Sampler], likeliest: list[int]) -> list[Draw]:
    """The draws of rows that want more than the likeliest token; `rows` float32 (n, vocabulary), which it may change."""
    told = [row for row, sampler in enumerate(samplers) if sampler.logprobs is not None]
    raw = rows[told].log_softmax(dim=-1) if told else rows[:0]
    tokens = list(likeliest)
    for row, sampler in enumerate(samplers):
        if sampler.penalties is not None:
            sampler.penalties.apply(rows[row])
            tokens[row] = int(rows[row].argmax())
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if drawn:
        mine = [samplers[row] for row in drawn]
        scores = _scores(rows if len(drawn) == len(rows) else rows[drawn], mine)
        for row, token in zip(drawn, _race(scores, mine), strict=True):
            tokens[row] = token
    draws = [Draw(token) for token in tokens]
    for line, row in enumerate(told):
        draws[row] = _with_logprobs(raw[line], tokens[row], samplers[row].logprobs or 0)
    return draws


def _scores(rows: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Logits over temperature, the largest 0, in place: so a small temperature cannot overflow."""
    temperatures = torch.tensor([sampler.temperature for sampler in samplers], device=rows.device)
    return rows.sub_(rows.amax(dim=-1, keepdim=True)).div_(temperatures[:, None])


def _race(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The winners, by `scores` (n, vocabulary) of which the largest is 0.

    The first in the race among all that is one of those kept, wins among those kept. That is cheaper to see than to sort
    the likeliest, which remains where the first few are not kept, and for top_k, where it is cheap.
    """
    few = [row for row, sampler in enumerate(samplers) if 0 < sampler.top_k < scores.shape[1]]
    rest = [row for row in range(len(samplers)) if row not in few]
    tokens = [0] * len(samplers)
    if rest:
        mine = [samplers[row] for row in rest]
        for row, token in zip(rest, _race_of_all(scores if not few else scores[rest], mine), strict=True):
            if token is None:
                few.append(row)
            else:
                tokens[row] = token
    if few:
        mine = [samplers[row] for row in few]
        for row, token in zip(few, _race_of_candidates(scores[few], mine), strict=True):
            tokens[row] = token
    return tokens


def _race_of_all(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The first in the race among all tokens that top_p and min_p keep; None where the first `TRIES` are not kept."""
    tokens = np.arange(scores.shape[1], dtype=np.uint32)
    race = _variates(samplers, [tokens] * len(samplers)).to(scores.device)
    masses = scores.exp()
    race = torch.div(masses, race, out=race)
    if any(sampler.min_p for sampler in samplers):
        race.mul_(scores >= _floors(samplers, scores))
    found: list[int | None] = list(race.max(dim=-1).indices.tolist())
    open_rows = [row for row, sampler in enumerate(samplers) if sampler.top_p < 1.0]
    if not open_rows:
        return found
    totals, shares = masses.sum(dim=-1), _shares(samplers, scores)[:, 0]
    for _ in range(TRIES):
        firsts = torch.tensor([found[row] for row in open_rows], device=scores.device)
        rows = torch.tensor(open_rows, device=scores.device)
        mine = scores[rows, firsts]
        every = len(open_rows) == len(scores)
        open_scores, open_masses = (scores, masses) if every else (scores[rows], masses[rows])
        above = (open_scores > mine[:, None]).mul(open_masses).sum(dim=-1) / totals[rows]
        kept = (above < shares[rows]).tolist()
        open_rows = [row for row, is_kept in zip(open_rows, kept, strict=True) if not is_kept]
        if not open_rows:
            break
        for row in open_rows:
            race[row, found[row]] = 0.0
            found[row] = int(race[row].max(dim=0).indices)
    for row in open_rows:
        found[row] = None
    return found


def _shares(samplers: Sequence[Sampler], like: torch.Tensor) -> torch.Tensor:
    """top_p of each, (n, 1); infinity where it keeps all."""
    return torch.tensor([s.top_p if s.top_p < 1.0 else math.inf for s in samplers], device=like.device)[:, None]


def _floors(samplers: Sequence[Sampler], like: torch.Tensor) -> torch.Tensor:
    """The lowest scores that min_p keeps, (n, 1)."""
    return torch.tensor([math.log(s.min_p) if s.min_p else -math.inf for s in samplers], device=like.device)[:, None]


def _race_of_candidates(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The winners among the likeliest tokens, looked at one by one."""
    values, tokens, kept = candidates(scores, samplers)
    variates = _variates(samplers, tokens.cpu().numpy().astype(np.uint32)).to(scores.device)
    race = values.exp().mul_(kept).div_(variates)
    winners: list[int] = tokens.gather(1, race.max(dim=-1).indices[:, None])[:, 0].tolist()
    return winners


def _variates(samplers: Sequence[Sampler], tokens: Iterable[npt.NDArray[np.uint32]]) -> torch.Tensor:
    """Each sequence's variates for its row of tokens."""
    rows = [exponential_variates(row, sampler.key) for row, sampler in zip(tokens, samplers, strict=True)]
    return torch.from_numpy(np.stack(rows))


def candidates(scores: torch.Tensor, samplers: Sequence[Sampler]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The likeliest tokens, by `scores` (n, vocabulary) of which the largest is 0: their scores, falling, their ids, and
    which of them top_k, top_p and min_p keep; (n, m) each, with m large enough for all that any row keeps.

    Sorting a whole vocabulary costs more than a step may; so few are taken first, and more where those do not suffice.
    """
    vocabulary = scores.shape[1]
    ks = torch.tensor([min(s.top_k or vocabulary, vocabulary) for s in samplers], device=scores.device)[:, None]
    ps, floors = _shares(samplers, scores), _floors(samplers, scores)
    limited = ks < vocabulary
    total = None if bool(limited.all()) else scores.exp().sum(dim=-1, keepdim=True)
    count = max([LEAST_CANDIDATES, *(s.top_k + 8 for s in samplers if s.top_k < vocabulary)])
    while True:
        count = min(count, vocabulary)
        values, tokens = scores.topk(count)
        last = values[:, -1:]
        kth = values.gather(1, ks.clamp(max=count) - 1)
        kept = (values >= kth) | ~limited
        masses = values.exp().mul_(kept)
        within = masses.sum(dim=-1, keepdim=True)
        masses /= within if total is None else torch.where(limited, within, total)
        reached = masses.cumsum(dim=-1)
        nucleus = kept & (reached - masses < ps)
        cut = values.masked_fill(~nucleus, math.inf).amin(dim=-1, keepdim=True)
        kept &= (values >= cut) & (values >= floors)
        enough = torch.where(limited, last < kth, ((reached[:, -1:] >= ps) & (last < cut)) | (last < floors))
        if count == vocabulary or bool(enough.all()):
            return values, tokens, kept
        count *= 8


def _with_logprobs(logprobs: torch.Tensor, token: int, count: int) -> Draw:
    """A draw with its log-probability and the `count` likeliest, from log-probabilities (vocabulary,)."""
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    likely = zip(tokens.tolist(), values.tolist(), strict=True)
    return Draw(token, float(logprobs[token]), [one for one in likely if math.isfinite(one[1])])
