"""From the words of a command line to the input of a task kind; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import msgspec

from llmos.infra.wording import in_words
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.tasks import INPUTS, ChatMessage, GenerateInput

MODELS = {"generate": "shakespeare-decoder", "embed": "minilm-l6-v2"}
"""The model of a kind where none is named: those that ship. Other kinds need none, or it must be named."""

ROLES: tuple[str, ...] = get_args(get_type_hints(ChatMessage)["role"])
STDIN = "-"
_TEXTS = ("prompt", "text")
_PATH = re.compile(r" - at `\$\.(\w+)\S*`$")


def texts_of(words: Sequence[str], lines: Iterable[bytes]) -> list[str]:
    """The texts; the word `-` stands for the lines of `lines` (standard input), each one text, also an empty one.

    Raises:
        InvalidRequest: there is no text, or it is not UTF-8.
    """
    texts: list[str] = []
    for word in words:
        if word == STDIN:
            texts += [_line(number, line) for number, line in enumerate(lines, start=1)]
        else:
            texts.append(_word(word))
    if not texts:
        raise InvalidRequest(where="TEXT", problem="there is no text")
    return texts


def _line(number: int, line: bytes) -> str:
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as problem:
        where = f"line {number} of standard input"
        raise InvalidRequest(where=where, problem=f"it is not UTF-8 ({problem.reason})") from None


def _word(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes of the command line that Python could not decode
        raise InvalidRequest(where="TEXT", problem="it is not UTF-8") from None
    return word


def messages_of(system: str | None, turns: Sequence[str]) -> list[dict[str, str]]:
    """A conversation: the system's words, if any, then the turns, each `role:text` or the user's text.

    A turn of the user that begins with the name of a role and a colon is written with `user:` before it.
    """
    found = [] if system is None else [{"role": "system", "content": _word(system)}]
    for turn in turns:
        role, colon, content = _word(turn).partition(":")
        if colon and role in ROLES:
            found.append({"role": role, "content": content})
        else:
            found.append({"role": "user", "content": turn})
    return found


def input_of(kind: str, texts: Sequence[str], options: Mapping[str, Any], more: Iterable[str] = ()) -> msgspec.Struct:
    """The kind's input: one text as such, several as a list, in the field `prompt` or `text`, else in the first one.

    `options` are flags, left out where None or where the kind has no such field; `more` are `name=value`, the value as
    JSON or else as text. Without texts the field is left as it is by default: a conversation takes its place.

    Raises:
        InvalidRequest: a value is out of its bounds, or the kind has no such field.
    """
    type_ = INPUTS[kind]
    fields = type_.__struct_fields__
    values: dict[str, Any] = {}
    if texts:
        name = next((name for name in _TEXTS if name in fields), fields[0])
        values[name] = texts[0] if len(texts) == 1 else list(texts)
    values |= {name: value for name, value in options.items() if value is not None and name in fields}
    for text in more:
        name, equals, value = text.partition("=")
        if not equals or name not in fields:
            what = f"{kind} has no field {name}" if equals else "write it as name=value"
            raise InvalidRequest(where=f"--set-input {text}", problem=f"{what}; {kind} has {', '.join(fields)}")
        values[name] = _value(value)
    if type_ is not GenerateInput and options.get("messages"):
        raise InvalidRequest(where="--message", problem=f"{kind} takes texts and no conversation")
    if texts and options.get("messages"):
        raise InvalidRequest(where="--message", problem="there is a text, too; give either texts or a conversation")
    try:
        return msgspec.convert(values, type=type_)
    except msgspec.ValidationError as problem:
        raise in_words_of_flags(InvalidRequest(where="the input", problem=str(problem))) from None


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def in_words_of_flags(error: InvalidRequest) -> InvalidRequest:
    """The error of a field with the flag that gave it; others as they are."""
    problem = str(error.values["problem"])
    found = _PATH.search(problem)
    if found is None:
        return error
    return InvalidRequest(where=f"--{found[1].replace('_', '-')}", problem=in_words(problem[: found.start()]))
