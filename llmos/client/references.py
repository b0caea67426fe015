"""How a client names a job: a submission of its own, or a job id with or without the origin, from anywhere."""

from __future__ import annotations

import re

import msgspec

from llmos.client.errors import BadReference
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer

_TEXT = re.compile(r"^([0-9a-fA-F]{32})(?:@([A-Za-z0-9._-]{1,249}):(\d{1,6}):(\d{1,19}))?$")


class JobRef(msgspec.Struct, frozen=True):
    """A job; with `origin`, one submission of it."""

    job_id: bytes
    origin: Origin | None = None

    def __str__(self) -> str:
        """As `parse_reference` reads it."""
        if self.origin is None:
            return self.job_id.hex()
        return f"{self.job_id.hex()}@{self.origin.topic}:{self.origin.partition}:{self.origin.offset}"


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the log acknowledged. Keep it, or its text, to ask for the answer later."""

    job_id: bytes
    request_id: str
    origin: Origin
    tenant: str
    partition: int
    """The job's partition on `stream`, `results` and all other job topics."""
    stream_from: int | None = None
    """An offset of the job's partition of `stream`, read before the request was sent: its events come later."""
    results_from: int | None = None
    """The same of `results`."""
    sealed: bool = False
    """The request was sealed, so that nothing clear is believed to be its answer."""

    @property
    def reference(self) -> JobRef:
        """What others need to find it."""
        return JobRef(self.job_id, self.origin)

    def __str__(self) -> str:
        return str(self.reference)


Reference = Submission | Answer | JobRef | bytes | str
"""All that names a job."""


def parse_reference(text: str) -> JobRef:
    """Reads `job` or `job@topic:partition:offset`.

    Raises:
        BadReference: it is neither.
    """
    match = _TEXT.match(text.strip())
    if match is None:
        raise BadReference(text=text)
    job, topic, partition, offset = match.groups()
    origin = Origin(topic, int(partition), int(offset)) if topic else None
    return JobRef(bytes.fromhex(job), origin)


def reference_of(job: Reference) -> JobRef:
    """What `job` names. Raises `BadReference`."""
    if isinstance(job, JobRef):
        return job
    if isinstance(job, Submission):
        return job.reference
    if isinstance(job, Answer):
        return JobRef(job.job_id, job.origin)
    if isinstance(job, str):
        return parse_reference(job)
    if len(job) != 16:
        raise BadReference(text=job.hex())
    return JobRef(job)


def pointed(answer: Answer) -> JobRef | None:
    """The earlier submission whose answer holds, where `answer` is a pointer to it."""
    if answer.status != "pointer" or answer.original is None:
        return None
    return JobRef(answer.job_id, answer.original)
