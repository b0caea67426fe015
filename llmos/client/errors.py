"""What can go wrong for a client, beside the errors of `llmos.schemas.errors`.

LlmosError
├── JobFailed        the answer is there, and it is not a result
├── DeadLettered     the request was unusable and gets no answer
├── CannotOpen       the answer is there, and this client cannot open it or must not believe it
├── NoSuchJob        nothing knows the job
├── NoAnswer         the time a caller wanted to wait is over; the job goes on
├── NoReply          nobody replied to a query
│   └── Unanswered   and it is known why, or what may be the reason
├── QueryRefused     the scheduler replied with an error
├── CommandRefused   so it did to a command
├── NotDone          what a command asked for takes longer than a caller wanted to wait; it goes on
└── BadReference     the text names no job
"""

from __future__ import annotations

from llmos.schemas.dead import DeadLetter
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo
from llmos.schemas.results import Answer


class JobFailed(LlmosError):
    """Job {job} ended as {status}: {message}"""

    code = "job_failed"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        message = answer.error.message if answer.error else "the answer gives no reason"
        after = answer.error.retry_after if answer.error else 0.0
        if after and "try again" not in message:
            message = f"{message.rstrip('.')}; try again in {after:.1f} s"
        super().__init__(job=answer.job_id.hex(), status=answer.status, message=message, retry_after=after)


class DeadLettered(LlmosError):
    """The request at {origin} could not be used by {stage} and gets no answer; {error_code}: {message}"""

    code = "dead_lettered"

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        origin = f"{letter.origin.topic}:{letter.origin.partition}:{letter.origin.offset}"
        error = letter.error
        super().__init__(origin=origin, stage=letter.stage, error_code=error.code, message=error.message)


class CannotOpen(LlmosError):
    """The answer to job {job} cannot be opened: {problem}."""

    code = "cannot_open"

    def __init__(self, answer: Answer, problem: str) -> None:
        self.answer = answer
        """As it came."""
        super().__init__(job=answer.job_id.hex(), problem=problem)


class NoSuchJob(LlmosError):
    """There is no such job as {job} (or its answer is older than results are kept)."""

    code = "no_such_job"


class NoAnswer(LlmosError):
    """No answer to job {job} within {seconds:.1f} s; it goes on, so ask again with a longer time-out."""

    code = "no_answer"
    retryable = True


class NoReply(LlmosError):
    """No reply to {what!r} within {seconds:.1f} s; is a scheduler running? `llmos status` says so."""

    code = "no_reply"
    retryable = True


class Unanswered(NoReply):
    """No reply to {what!r} within {seconds:.1f} s: {why}."""

    code = "unanswered"
    retryable = False


class QueryRefused(LlmosError):
    """The scheduler refused query {what!r} with {error_code}: {message}"""

    code = "query_refused"


class CommandRefused(LlmosError):
    """{what} was refused with {error_code}: {message}"""

    code = "command_refused"

    @property
    def error(self) -> ErrorInfo:
        """The scheduler's error."""
        return ErrorInfo(code=str(self.values["error_code"]), message=str(self.values["message"]))


class NotDone(LlmosError):
    """{what} is not done after {seconds:.0f} s; it goes on."""

    code = "not_done"
    retryable = True


class BadReference(LlmosError):
    """{text!r} names no job; a job is 32 hexadecimal digits, or `job@topic:partition:offset` as submit printed it."""

    code = "bad_reference"
