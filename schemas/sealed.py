"""`sealed`: being here means that it will be answered; the offset s names the submission from then on."""

from __future__ import annotations

from llmos.schemas.admitted import Refusal
from llmos.schemas.base import Codec, Message
from llmos.schemas.job import Head, Part


class Job(Message, frozen=True, kw_only=True, tag="job/1"):
    """A verified job, its parts sealed."""

    head: Head
    parts: list[Part]


SEALED = Codec.of(Job, Refusal)
