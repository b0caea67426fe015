"""Writes the generated pages of `docs/`: settings, errors, topics, states, messages, each from the code that is in force.

`python -m llmos.cli.pages` writes them, `--check` only tells which are out of date. It is run where `docs/` is.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import llmos.client.errors
from llmos.cli.page_of_messages import anchor, docstrings, messages
from llmos.infra.settings import Settings
from llmos.infra.settings.environment import PREFIX
from llmos.schemas import errors, states
from llmos.schemas.errors import LlmosError, OperatorError
from llmos.schemas.topics import TABLE, Topic

DIRECTORY = Path("docs")
NOTE = "<!-- Written by `python -m llmos.cli.pages`. Change what it is made of, and run that again. -->"

_BRANCHES: tuple[tuple[type[LlmosError], str, str], ...] = (
    (errors.RefusedError, "Refused", "The client must change the request. Travels as an answer with status `refused`."),
    (errors.FailedError, "Failed", "The job ended without a result. Travels as an answer."),
    (errors.RecordError, "Records", "The record cannot be used. Goes to the dead-letter topic, unanswered."),
    (errors.OperatorError, "Operator", "The operator must act. Ends the command or the service; exit code 78."),
    (errors.Ambiguous, "Ambiguous", "Nobody can know what happened. Ends the process; start-up recovers."),
)


def configuration() -> str:
    """Every setting: name, name in the environment, what it takes, default, description."""
    lines = [
        "# Settings",
        "",
        "A setting `kafka.bootstrap` is `[kafka] bootstrap` in `llmos.toml` (or in the file that `LLMOS_CONFIG` or `--config`",
        "names), `LLMOS_KAFKA__BOOTSTRAP` in the environment and `--set kafka.bootstrap=…` on the command line. The command",
        "line goes before the environment, the environment before the file. In the environment a list is written as JSON.",
        "An unknown name or an unreadable value stops the start. `llmos config show` tells what is in force and where it",
        "came from.",
    ]
    for heading, group, defaults, path in _groups():
        rows = [
            (
                f"`{'.'.join([*path, name])}`",
                f"`{PREFIX}{'__'.join([*path, name]).upper()}`",
                _takes(group.model_json_schema()["properties"][name]),
                _default(getattr(defaults, name) if defaults else field.default),
                field.description or "",
            )
            for name, field in group.model_fields.items()
            if not _is_group(field.annotation)
        ]
        lines += ["", *heading, "", *_table(("setting", "environment", "takes", "default", "what it is"), rows)]
    return _page(lines)


def _groups() -> Iterator[tuple[list[str], type[BaseModel], BaseModel | None, list[str]]]:
    """Each group with its heading, its values by default (None: those of its fields) and its path."""
    yield ["## The tree's own"], Settings, None, []
    for name, field in Settings.model_fields.items():
        if _is_group(field.annotation):
            yield from _inside(field.annotation, field.default, [name])


def _inside(
    group: Any, defaults: BaseModel, path: list[str]
) -> Iterator[tuple[list[str], type[BaseModel], BaseModel | None, list[str]]]:
    nested = [name for name, field in group.model_fields.items() if _is_group(field.annotation)]
    if len(nested) < len(group.model_fields):
        yield [f"## `{'.'.join(path)}`", "", _sentence(group)], group, defaults, path
    for name in nested:
        yield from _inside(group.model_fields[name].annotation, getattr(defaults, name), [*path, name])


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _takes(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_takes(one) for one in schema["anyOf"] if one["type"] != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_takes(schema['items'])}"
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true`, `false`"}
    text = "path" if schema.get("format") == "path" else names[schema["type"]]
    bounds = (
        ("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"), ("pattern", "matching `{}`"),
    )  # fmt: skip
    return ", ".join([text, *(form.format(_plain(schema[key])) for key, form in bounds if key in schema)])


def _plain(bound: object) -> object:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _default(value: object) -> str:
    if value is None or value == "":
        return "none" if value is None else "empty"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{json.dumps(value) if isinstance(value, list | bool) else value}`"


def error_codes() -> str:
    """The error tree: code, class, whether a retry helps, text."""
    lines = [
        "# Errors",
        "",
        "Every error has a code that never changes its meaning, a message, and says whether the same request may succeed",
        "later (“retry”). What stands in braces is filled in. Answers, refusals and dead letters carry the code.",
    ]
    for branch, heading, text in _BRANCHES:
        kinds = [kind for kind in _errors_of(errors) if issubclass(kind, branch)]
        lines += ["", f"## {heading}", "", text, "", *_error_table(kinds)]
    lines += ["", "## At the client", "", "Raised by the SDK and the command line, beside those above.", ""]
    lines += _error_table(_errors_of(llmos.client.errors))
    lines += ["", "## None of these", "", *_error_table([LlmosError])]
    return _page(lines)


def _errors_of(module: Any) -> list[type[LlmosError]]:
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, LlmosError) and kind.__module__ == module.__name__
    ]


def _error_table(kinds: Iterable[type[LlmosError]]) -> list[str]:
    rows = [
        (f"`{kind.code}`", f"`{kind.__name__}`", "yes" if kind.retryable else "no", _message(kind)) for kind in kinds
    ]
    return _table(("code", "class", "retry", "message"), rows)


def _message(kind: type[LlmosError]) -> str:
    """The docstring, with names alone in the braces."""
    parts = string.Formatter().parse(_sentence(kind))
    return "".join(text + ("" if name is None else f"`{{{name}}}`") for text, name, _, _ in parts)


def topics() -> str:
    """The table of topics."""
    lines = [
        "# Topics",
        "",
        "N is `kafka.partitions`; the setting `kafka.topic_prefix` goes before every name. A record's partition is murmur2 of",
        "its key modulo N, which is what every Kafka client does with a keyed record. “compacted” topics keep the latest",
        "record of each key. Topics marked “by the broker” carry the broker's time of appending, the others the sender's.",
        "",
        *_table(
            ("topic", "key", "partitions", "kept", "written by", "read by", "carries", "stamped", "record, bytes"),
            [_topic(topic) for topic in TABLE],
        ),
    ]
    return _page(lines)


def _topic(topic: Topic) -> tuple[str, ...]:
    carries = ", ".join(f"[{name}](messages.md{anchor(name)})" for name in topic.carries.split(", "))
    return (
        f"`{topic.name}`",
        topic.key,
        topic.partitions,
        _kept(topic.retention_seconds),
        ", ".join(topic.writers),
        ", ".join(topic.readers),
        carries,
        "by the broker" if topic.append_time else "by the sender",
        f"{topic.record_bytes:,}",
    )


def _kept(seconds: float | None) -> str:
    if seconds is None:
        return "compacted"
    count, unit = (seconds / 86_400, "day") if seconds >= 86_400 else (seconds / 3_600, "hour")
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


def state_machines() -> str:
    """The state machines of job, task and residency."""
    lines = [
        "# States",
        "",
        "The tables in `schemas/states.py`, drawn. A change of state that is not drawn never happens.",
    ]
    for name in ("JOB", "TASK", "RESIDENCY"):
        heading = name.capitalize()
        lines += ["", f"## {heading}", "", docstrings(states)[name], "", states.mermaid(heading, vars(states)[name])]
    return _page(lines)


def _sentence(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split())


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    cells = [columns, *rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(list(columns)), *lines[1:]]


def _page(lines: Iterable[str]) -> str:
    return "\n".join([NOTE, "", *lines]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "errors.md": error_codes,
    "topics.md": topics,
    "states.md": state_machines,
    "messages.md": lambda: _page(messages()),
}
"""File name → what makes its text."""


def stale(directory: Path = DIRECTORY) -> list[str]:
    """The pages in `directory` that are missing or not what would be written."""
    return [
        name
        for name, make in PAGES.items()
        if not (directory / name).is_file() or (directory / name).read_text(encoding="utf-8") != make()
    ]


def write(directory: Path = DIRECTORY) -> None:
    """Writes all pages.

    Raises:
        OperatorError: there is no such directory.
    """
    if not directory.is_dir():
        raise OperatorError(problem=f"there is no directory {directory} here; run this at the root of the repository")
    for name, make in PAGES.items():
        (directory / name).write_text(make(), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Writes or checks; gives the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m llmos.cli.pages [--check]", file=sys.stderr)
        return 2
    if arguments:
        old = stale()
        for name in old:
            print(f"docs/{name} is out of date: run `python -m llmos.cli.pages`", file=sys.stderr)
        return 1 if old else 0
    try:
        write()
    except OperatorError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
