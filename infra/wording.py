"""What a validator says, in words for people: which field, and what it must be; no types of Python, no paths into messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "bytes": "bytes (in JSON: base64)",
    "null": "nothing",
}
_SIGNS: Final = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_SIZED: Final = {"str": "characters", "bytes": "bytes", "array": "entries", "object": "fields"}
_PATH = re.compile(r" - at `(?P<path>[^`]*)`(?: in `[^`]*`)?\Z")

_Words = Callable[[re.Match[str]], str]


def _type(name: str) -> str:
    return " or ".join(_TYPES.get(one.strip(), one.strip()) for one in name.split("|"))


_RULES: Final[tuple[tuple[re.Pattern[str], _Words], ...]] = (
    # msgspec's, of types, bounds, lengths, forms, and what is there or not
    (
        re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)"),
        lambda m: f"must have {_SIGNS[m[2]]} {m[3]} {_SIZED.get(m[1], 'parts')}",
    ),
    (re.compile(r"Expected `\w+` (>=|<=|>|<) (\S+)"), lambda m: f"must be {_SIGNS[m[1]]} {m[2].removesuffix('.0')}"),
    (
        re.compile(r"Expected `str` matching regex .*", re.DOTALL),
        lambda m: "has a character, or a form, that it may not have",
    ),
    (re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?.*"), lambda m: f"must be {_type(m[1])}{_got(m[2])}"),
    (re.compile(r"Invalid enum value (.*)", re.DOTALL), lambda m: f"is {m[1]}, which it cannot be"),
    (re.compile(r"Object missing required field `([^`]*)`"), lambda m: f"lacks the field {m[1]}"),
    (
        re.compile(r"Object contains unknown field `([^`]*)`"),
        lambda m: f"has a field {m[1]}, which does not belong there",
    ),
    (re.compile(r"Invalid base64.*"), lambda m: "must be base64"),
    (re.compile(r"JSON is malformed: .*\(byte (\d+)\)"), lambda m: f"it is not JSON (at byte {m[1]})"),
    (re.compile(r"Input data was truncated"), lambda m: "it ends too early"),
    # pydantic's
    (re.compile(r"Input should be a valid integer.*"), lambda m: "it must be a whole number"),
    (re.compile(r"Input should be a valid number.*"), lambda m: "it must be a number"),
    (re.compile(r"Input should be a valid boolean.*"), lambda m: "it must be true or false"),
    (re.compile(r"Input should be a valid (?:list|array).*"), lambda m: "it must be a list"),
    (re.compile(r"Input should be a valid dictionary.*"), lambda m: "it must be a group of settings"),
    (
        re.compile(r"Input should be a valid (\w+).*"),
        lambda m: f"it must be {_type('str') if m[1] == 'string' else m[1]}",
    ),
    (re.compile(r"Input should be greater than or equal to (\S+)"), lambda m: f"it must be at least {m[1]}"),
    (re.compile(r"Input should be greater than (\S+)"), lambda m: f"it must be above {m[1]}"),
    (re.compile(r"Input should be less than or equal to (\S+)"), lambda m: f"it must be at most {m[1]}"),
    (re.compile(r"Input should be less than (\S+)"), lambda m: f"it must be below {m[1]}"),
    (re.compile(r"Input should be (.*)", re.DOTALL), lambda m: f"it must be {m[1]}"),
    (re.compile(r"(?:String|List|Value|Dictionary) should have (.*)", re.DOTALL), lambda m: f"it must have {m[1]}"),
    (
        re.compile(r"String should match pattern .*", re.DOTALL),
        lambda m: "it has a character, or a form, that it may not have",
    ),
    (re.compile(r"Value error, (.*)", re.DOTALL), lambda m: m[1]),
)


def in_words(problem: object) -> str:
    """The message of a validator (msgspec, pydantic) for people; what is none of theirs stays as it is."""
    text = str(problem)
    path = _PATH.search(text)
    where = path["path"].removeprefix("$").removeprefix(".") if path else ""
    text = text[: path.start()] if path else text
    for pattern, words in _RULES:
        if (found := pattern.fullmatch(text)) is not None:
            text = words(found)
            break
    return f"{where} {text}" if where else text


def _got(name: str | None) -> str:
    return f" and is {_type(name)}" if name else ""
