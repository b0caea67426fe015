"""The reader's rules for one stream, pure: highest epoch shown, repeats dropped, no gaps, moves, the final is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmos.client.events import Event, Final, Moved, StateChanged, TokenText
from llmos.schemas.results import Answer
from llmos.schemas.stream import State, Tokens


@dataclass(slots=True)
class _Output:
    """What is shown of one output."""

    epoch: int
    next_sequence: int = 0
    finished: bool = False
    gap: bool = False
    """An event is missing; nothing more of this epoch can be shown."""
    pieces: list[tuple[int, int, str]] = field(default_factory=list)
    """(first token, tokens, text), in order."""

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.pieces)

    def cut(self, token: int) -> None:
        """Keeps what lies before `token`. A piece that reaches over it is dropped: text has no token borders."""
        self.pieces = [piece for piece in self.pieces if piece[0] + piece[1] <= token]


class Assembler:
    """Takes the events of one (partition, s) in the order of the log and says what to show."""

    def __init__(self) -> None:
        self._outputs: dict[int, _Output] = {}
        self._state: tuple[int, dict[str, tuple[int, State]]] = (-1, {})
        """The highest epoch of states, and in it the latest (sequence, state) per source."""

    def text(self, output_index: int = 0) -> str:
        """What is shown of an output now."""
        output = self._outputs.get(output_index)
        return output.text if output else ""

    def tokens(self, event: Tokens) -> list[Event]:
        """What a token event changes."""
        output = self._outputs.get(event.output_index)
        shown: list[Event] = []
        if output is None:
            output = self._outputs[event.output_index] = _Output(event.epoch)
        elif event.epoch > output.epoch:
            output.cut(event.resume_at)
            output.epoch, output.next_sequence = event.epoch, 0
            output.finished = output.gap = False
            shown.append(Moved(event.output_index, event.epoch, event.resume_at, output.text))
        if event.epoch < output.epoch or event.sequence < output.next_sequence or output.gap:
            return shown
        if event.sequence > output.next_sequence:
            output.gap = True
            return shown
        output.next_sequence += 1
        output.finished = output.finished or bool(event.finish)
        output.pieces.append((event.first_token, event.tokens, event.text))
        if event.text or event.finish:
            shown.append(
                TokenText(event.text, event.output_index, event.epoch, event.first_token, event.tokens, event.finish)
            )
        return shown

    def state(self, event: State) -> list[Event]:
        """What a state event changes: an older epoch and an older sequence of the same source are stale."""
        epoch, sources = self._state
        if event.epoch < epoch:
            return []
        if event.epoch > epoch:
            sources = {}
        before = sources.get(event.source)
        if before is not None and (event.sequence < before[0] or event == before[1]):
            return []
        sources[event.source] = (event.sequence, event)
        self._state = (event.epoch, sources)
        return [_shown(event)]

    def complete(self, answer: Answer) -> bool:
        """Whether all text of `answer` is shown, so that nothing on the stream can add to it."""
        epochs = set(answer.epochs)
        return bool(self._outputs) and all(
            (output := self._outputs.get(item.output_index)) is not None
            and output.finished
            and not output.gap
            and output.epoch in epochs
            for item in answer.items
        )

    def final(self, answer: Answer, texts: Mapping[int, str]) -> Final:
        """The end; `texts` are the texts of the answer's outputs, which replace what was shown where it differs."""
        epochs = set(answer.epochs)
        replaced: dict[int, str] = {}
        for index, text in texts.items():
            output = self._outputs.get(index)
            if output is None or output.epoch not in epochs or output.text != text:
                replaced[index] = text
        return Final(answer, replaced)


def _shown(event: State) -> StateChanged:
    return StateChanged(
        state=event.state,
        device=event.device,
        detail=event.detail,
        at=event.at,
        done=event.done,
        of=event.of,
        rule=event.rule,
        need=event.need,
        have=event.have,
        position=event.position,
        predicted_start_at=event.predicted_start_at,
    )
