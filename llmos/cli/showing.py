"""Answers and events as lines for people or as JSON, one object a line."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec
from rich.text import Text

from llmos.cli.session import Session
from llmos.client import Answer, CannotOpen, CommandRefused, Event, Final, JobRef, Moved, StateChanged, TokenText
from llmos.client.outputs import Output, outputs
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo, error_info
from llmos.schemas.tasks import EmbedOutput

NUMBERS = 6
"""Of an embedding, so many numbers are shown; `--json` gives all."""


async def as_it_came(asked: Awaitable[Answer | None]) -> Answer | None:
    """The answer that was asked for, still sealed where it cannot be opened: for what it tells beside its outputs."""
    try:
        return await asked
    except CannotOpen as problem:
        return problem.answer


def reference(answer: Answer) -> str:
    """What names the submission on a command line."""
    return str(JobRef(answer.job_id, answer.origin))


def answer_object(answer: Answer) -> dict[str, Any]:
    """The answer as a JSON object: ids as text, outputs decoded."""
    found: dict[str, Any] = {
        "job": answer.job_id.hex(),
        "reference": reference(answer),
        "status": answer.status,
        "kind": answer.kind,
        "model": answer.model_name,
        "model_identity": answer.model,
        "tenant": answer.tenant,
        "request_id": answer.request_id,
        "outputs": _output_objects(answer),
        "error": error_object(answer.error) if answer.error else None,
        "devices": answer.devices,
        "usage": msgspec.structs.asdict(answer.usage),
        "stages": msgspec.structs.asdict(answer.stages),
    }
    return found


def _output_objects(answer: Answer) -> list[dict[str, Any]]:
    if any(item.sealed for item in answer.items):
        return [{"sealed": True}] * len(answer.items)
    return [_output_object(output) for output in outputs(answer)]


def _output_object(output: Output) -> dict[str, Any]:
    if isinstance(output, ErrorInfo):
        return {"error": error_object(output)}
    return msgspec.structs.asdict(output)


def error_object(error: LlmosError | ErrorInfo) -> dict[str, Any]:
    """An error as a JSON object, always with code, message and retryable; of a refused command the scheduler's own."""
    if isinstance(error, CommandRefused):
        error = error.error
    return msgspec.structs.asdict(error if isinstance(error, ErrorInfo) else error_info(error))


def event_object(event: Event) -> dict[str, Any]:
    """An event as a JSON object."""
    if isinstance(event, Final):
        replaced = {str(index): text for index, text in event.replaced.items()}
        return {"event": "final", "replaced": replaced, "answer": answer_object(event.answer)}
    names = {TokenText: "tokens", StateChanged: "state", Moved: "moved"}
    return {"event": names[type(event)], **event._asdict()}


def show_answer(session: Session, answer: Answer, *, json: bool, shown: bool = False) -> None:
    """Prints an answer; `shown`: its texts stand on the terminal already."""
    if json:
        session.line(answer_object(answer))
        return
    if answer.status != "completed":
        return  # told as an error, by the exit of the command
    found = outputs(answer)
    for index, output in enumerate(found):
        if not shown or isinstance(output, ErrorInfo):
            session.out.print(Text(_line(output) if len(found) == 1 else f"[{index}] {_line(output)}"))
        for line in _logprobs(output):
            session.note(line)


def _logprobs(output: Output) -> list[str]:
    """The log-probabilities of an output's tokens, a line each, with what else was likely there."""
    found = getattr(output, "logprobs", None) or []
    return [
        f"{entry.logprob:9.4f}  {entry.text!r}"
        + "".join(f"  {top.text!r} {top.logprob:.4f}" for top in entry.top if top.token != entry.token)
        for entry in found
    ]


def _line(output: Output) -> str:
    if isinstance(output, ErrorInfo):
        return f"{output.code}: {output.message}"
    if isinstance(output, EmbedOutput):
        some = ", ".join(f"{number:.4f}" for number in output.embedding[:NUMBERS])
        rest = ", …" if len(output.embedding) > NUMBERS else ""
        return f"{len(output.embedding)} numbers: {some}{rest}"
    text = getattr(output, "text", None)
    return text if isinstance(text, str) else msgspec.json.encode(output).decode()
