"""Answers and streams on a terminal or as JSON, one object a line."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from llmos.cli.session import Session
from llmos.client import Answer, Event, Final, JobRef, Moved, StateChanged, TokenText
from llmos.client.outputs import Output, outputs, texts
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo, error_info
from llmos.schemas.tasks import EmbedOutput

NUMBERS = 6
"""Of an embedding, so many numbers are shown; `--json` gives all."""


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
        "outputs": [_output_object(output) for output in outputs(answer)],
        "error": error_object(answer.error) if answer.error else None,
        "devices": answer.devices,
        "usage": msgspec.structs.asdict(answer.usage),
        "stages": msgspec.structs.asdict(answer.stages),
    }
    return found


def _output_object(output: Output) -> dict[str, Any]:
    if isinstance(output, ErrorInfo):
        return {"error": error_object(output)}
    return msgspec.structs.asdict(output)


def error_object(error: LlmosError | ErrorInfo) -> dict[str, Any]:
    """An error as a JSON object, always with code, message and retryable."""
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


def _line(output: Output) -> str:
    if isinstance(output, ErrorInfo):
        return f"{output.code}: {output.message}"
    if isinstance(output, EmbedOutput):
        some = ", ".join(f"{number:.4f}" for number in output.embedding[:NUMBERS])
        rest = ", …" if len(output.embedding) > NUMBERS else ""
        return f"{len(output.embedding)} numbers: {some}{rest}"
    text = getattr(output, "text", None)
    return text if isinstance(text, str) else msgspec.json.encode(output).decode()


class StreamPrinter:
    """Shows a stream's events as they come: text on standard output, states beside it.

    Of several outputs one is shown as it grows; the others wait until it has ended, each then at its own line.
    """

    def __init__(self, session: Session, *, outputs: int = 1, states: bool = True) -> None:
        self._session = session
        self._numbered = outputs > 1
        self._states = states
        self._live: int | None = None
        """The output whose line is under way."""
        self._texts: dict[int, str] = {}
        """What is known of the outputs that are not on the terminal yet."""
        self._ended: set[int] = set()

    def show(self, event: Event) -> None:
        """Shows one event."""
        if isinstance(event, StateChanged):
            if self._states and self._live is None:
                self._session.note(_state_line(event))
        elif isinstance(event, Final):
            self._final(event)
        else:
            if isinstance(event, Moved) and event.output_index == self._live:
                self._newline()
                self._session.note("moved to another device; what is shown of it now replaces the line before")
            self._append(event)

    def _append(self, event: TokenText | Moved) -> None:
        index = event.output_index
        if isinstance(event, TokenText) and index == self._live:
            self._write(event.text)
        elif isinstance(event, Moved):
            self._texts[index] = event.text
            self._ended.discard(index)
        else:
            self._texts[index] = self._texts.get(index, "") + event.text
        if isinstance(event, TokenText) and event.finish:
            self._ended.add(index)
        if self._live is None or (self._live == index and index in self._ended):
            self._next()

    def _next(self) -> None:
        """Ends the line under way, shows the outputs that have ended, and goes on with one that has not."""
        self._newline()
        for index in sorted(self._texts):
            self._begin(index)
            if index not in self._ended:
                return
            self._newline()

    def _begin(self, index: int) -> None:
        self._live = index
        if index or self._numbered:
            self._write(f"[{index}] ")
        self._write(self._texts.pop(index))

    def _final(self, final: Final) -> None:
        has_texts = final.answer.status == "completed" and bool(texts(final.answer))
        if has_texts:
            self._texts |= final.replaced
            self._ended |= set(self._texts)
            self._next()
        self._newline()
        show_answer(self._session, final.answer, json=False, shown=has_texts)

    def _write(self, text: str) -> None:
        self._session.out.file.write(text)
        self._session.out.file.flush()

    def _newline(self) -> None:
        if self._live is not None:
            self._write("\n")
            self._live = None


def _state_line(event: StateChanged) -> str:
    parts = [event.state, f"on {event.device}" if event.device else "", event.detail]
    if event.of:
        parts.append(f"{event.done / event.of:.0%} of {event.of} bytes")
    return " ".join(part for part in parts if part)
