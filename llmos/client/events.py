"""What a stream of one submission yields."""

from __future__ import annotations

from typing import NamedTuple

from llmos.schemas.results import Answer
from llmos.schemas.states import JobState


class TokenText(NamedTuple):
    """Text to append to output `output_index`."""

    text: str
    output_index: int
    epoch: int
    first_token: int
    """Place of its first token in the output."""
    tokens: int
    finish: str
    """Why the output ends here (`stop`, `length`); empty while it goes on."""


class StateChanged(NamedTuple):
    """Where the job is now."""

    state: JobState
    device: str
    detail: str
    """What it waits for, or why it moved."""
    at: float
    done: int
    """Of loading: bytes read so far, of `of` bytes."""
    of: int
    rule: str = ""
    """Of waiting: the rule that holds it, with what it needs and what there is."""
    need: float = 0.0
    have: float = 0.0
    position: int = 0
    """Of waiting: how many tasks go before it, plus one; 0: unknown."""
    predicted_start_at: float = 0.0
    """When a device should begin with it (Unix seconds); 0: unknown."""


class Moved(NamedTuple):
    """Another attempt goes on with this output: what was shown from token `resume_at` on is void.

    `text` is what remains valid; show it instead of all that was shown of the output.
    """

    output_index: int
    epoch: int
    resume_at: int
    text: str


class Final(NamedTuple):
    """The end: the answer is the truth."""

    answer: Answer
    replaced: dict[int, str]
    """Outputs whose text is not the one that was shown, with the text to show instead."""


Event = TokenText | StateChanged | Moved | Final
