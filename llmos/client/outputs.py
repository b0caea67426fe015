"""What is inside an answer: each item's output as the type of its kind."""

from __future__ import annotations

from typing import Any

import msgspec

from llmos.schemas.errors import Malformed
from llmos.schemas.job import ErrorInfo, Item
from llmos.schemas.results import Answer
from llmos.schemas.tasks import OUTPUTS, EchoOutput, EmbedOutput, GenerateOutput

Output = GenerateOutput | EmbedOutput | EchoOutput | ErrorInfo
"""An item's output, or why it has none."""


def outputs(answer: Answer) -> list[Output]:
    """The outputs in the order of the input's items; an item that failed by itself is its `ErrorInfo`.

    Raises:
        Malformed: an output is not one of its kind, or this version does not know the kind.
    """
    if not answer.items:
        return []
    type_ = OUTPUTS.get(answer.kind)
    if type_ is None:
        raise Malformed(problem=f"there is no task kind {answer.kind!r} in this version")
    return [_output(item, type_) for item in sorted(answer.items, key=lambda item: item.output_index)]


def choices(answer: Answer, n: int) -> list[list[Output]]:
    """The outputs of each prompt in the order of the prompts, where `n` outputs of each were asked for.

    Raises:
        ValueError: the answer's outputs are not `n` for each prompt.
        Malformed: as `outputs`.
    """
    found = outputs(answer)
    if n < 1 or len(found) % n:
        raise ValueError(f"{len(found)} outputs are not {n} for each prompt")
    return [found[i : i + n] for i in range(0, len(found), n)]


def texts(answer: Answer) -> dict[int, str]:
    """The texts of an answer's outputs by output index; items without a text are left out."""
    found = zip(sorted(item.output_index for item in answer.items), outputs(answer), strict=True)
    return {i: output.text for i, output in found if isinstance(getattr(output, "text", None), str)}  # type: ignore[union-attr]


def _output(item: Item, type_: Any) -> Output:
    if item.error is not None:
        return item.error
    if item.sealed:
        raise Malformed(problem=f"output {item.output_index} is sealed; take the answer from a client that can open it")
    try:
        output: Output = msgspec.msgpack.decode(item.output, type=type_)
    except msgspec.DecodeError as problem:
        raise Malformed(problem=f"output {item.output_index}: {problem}") from None
    return output
