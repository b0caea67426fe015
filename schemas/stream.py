"""`stream` (and `reply_to` topics): tokens and states of jobs while they run; a stream is (partition, s)."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import Origin
from llmos.schemas.limits import (
    Code,
    Count,
    Epoch,
    JobId,
    Key,
    Offset,
    Partition,
    RequestId,
    Sealed,
    Seconds,
    Short,
    Text,
)
from llmos.schemas.states import JobState


class Tokens(Message, frozen=True, kw_only=True, tag="tokens/1"):
    """Text that one attempt produced; gap-free per (s, epoch, output_index). By the worker alone."""

    job_id: JobId
    request_id: RequestId
    origin: Origin
    partition: Partition
    s: Offset
    epoch: Epoch
    source: Code
    sequence: Count
    """Counts the events of this source for (s, epoch, output_index), from 0."""
    output_index: Count = 0
    first_token: Count = 0
    """Place of the first token of this event in the output."""
    tokens: Count = 1
    text: Text = ""
    finish: Code = ""
    resume_at: Count = 0
    """The token from which this epoch goes on; a reader drops what it had shown from there."""
    wrapped_output_key: Key = b""
    """Not written any more: an envelope carries its wrapped keys itself."""
    part: Count = 0
    sealed: Sealed = b""
    """An envelope for the asker of the text, and of all that tells of it (`first_token`, `tokens`, `finish`, `resume_at`);
    those fields then have no meaning."""


class State(Message, frozen=True, kw_only=True, tag="state/1"):
    """Where a job is; idempotent, the latest (epoch, sequence) wins."""

    job_id: JobId
    request_id: RequestId
    origin: Origin
    state: JobState
    partition: Partition = 0
    s: Offset | None = None
    epoch: Epoch = 0
    source: Code = ""
    sequence: Count = 0
    at: Seconds = 0.0
    device: str = ""
    detail: Short = ""
    """What it waits for, or why it moved."""
    done: Count = 0
    """Of loading: bytes read."""
    of: Count = 0
    rule: Code = ""
    """Of waiting: the rule that holds it."""
    need: float = 0.0
    have: float = 0.0
    position: Count = 0
    """Of waiting: how many tasks go before it, plus one; 0: unknown."""
    predicted_start_at: Seconds = 0.0
    """When a device should begin with it (Unix seconds); 0: unknown."""


STREAM = Codec.of(Tokens, State)
