"""A stream on a terminal: text as it grows on standard output, beside it what the job waits for and how far a load is."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmos.cli.rules import in_words
from llmos.cli.session import Session
from llmos.cli.showing import show_answer
from llmos.cli.status_line import StatusLine, bar
from llmos.cli.units import at_time, ordinal, size_of_size
from llmos.client import Event, Final, Moved, StateChanged, TokenText
from llmos.client.outputs import texts

STEPS = 10
"""A load that is told line by line is told in so many steps."""


class StreamPrinter:
    """Shows a stream's events as they come: text on standard output, states beside it.

    Of several outputs one is shown as it grows; the others wait until it has ended, each then at its own line.
    """

    def __init__(
        self, session: Session, *, outputs: int = 1, states: bool = True, now: Callable[[], float] = time.time
    ) -> None:
        self._session = session
        self._numbered = outputs > 1
        self._states = states
        self._now = now
        self._live: int | None = None
        """The output whose line is under way."""
        self._texts: dict[int, str] = {}
        """What is known of the outputs that are not on the terminal yet."""
        self._ended: set[int] = set()
        self._line = StatusLine(session.err)

    def show(self, event: Event) -> None:
        """Shows one event."""
        if isinstance(event, StateChanged):
            if self._states and self._live is None:
                self._line.show(state_line(event, self._now()), _key(event))
        elif isinstance(event, Final):
            self._final(event)
        else:
            if isinstance(event, Moved) and event.output_index == self._live:
                self._newline()
                self._line.end()
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
        self._line.end()
        show_answer(self._session, final.answer, json=False, shown=has_texts)

    def _write(self, text: str) -> None:
        self._line.end()
        self._session.out.file.write(text)
        self._session.out.file.flush()

    def _newline(self) -> None:
        if self._live is not None:
            self._write("\n")
            self._live = None


def state_line(event: StateChanged, now: float) -> str:
    """A state for people: where it is; of waiting the place in the queue, why and until when; of loading bytes of bytes."""
    words = [event.state, f"on {event.device}" if event.device else ""]
    if event.position:
        words.append(f"as the {ordinal(event.position)} in the queue")
    if event.predicted_start_at > now:
        words.append(f"and should begin {at_time(event.predicted_start_at, now)}")
    line = " ".join(word for word in words if word)
    reasons = [in_words(event.rule, event.need, event.have), "" if event.rule else event.detail]
    if event.of:
        reasons.append(f"{bar(event.done, event.of)} {size_of_size(event.done, event.of)}")
    return ": ".join([line, *(reason for reason in reasons if reason)])


def _key(event: StateChanged) -> object:
    """What makes a state worth another line where the one before cannot be rewritten: not the passing of time alone."""
    step = int(STEPS * event.done / event.of) if event.of else 0
    return event.state, event.device, event.detail, event.rule, event.position, step
