"""The page of messages: every message and value with its fields, their types, bounds, defaults and docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import msgspec
from msgspec import inspect as shapes

from llmos.schemas import (
    admitted,
    catalog,
    control,
    dead,
    epochs,
    job,
    limits,
    partials,
    requests,
    results,
    sealed,
    stream,
    tasks,
    telemetry,
    work,
)
from llmos.schemas.base import Message

ROOMS: tuple[ModuleType, ...] = (
    requests, admitted, sealed, work, stream, partials, results, dead, control, telemetry, catalog, epochs, job, tasks,
)  # fmt: skip
"""In the order of a job's way; then the values inside of messages, then what is inside of payloads."""


def messages() -> Iterator[str]:
    """The lines of the page."""
    yield from (
        "# Messages",
        "",
        "Every record is one MessagePack map with its name and major version in the field `type`. A reader passes over",
        "fields that it does not know; a field at its default is left out. Requests may be JSON as well, with the header",
        "`content-type: application/json`; bytes are base64 there. Times are Unix seconds, sizes are bytes.",
        "[Topics](topics.md) says which topic carries what.",
    )
    for room in ROOMS:
        yield from ("", f"## Room `{room.__name__.rpartition('.')[2]}`", "", _first_line(room))
        for kind in _structs(room):
            yield from _struct(kind)
    yield from (
        "",
        "## Limits",
        "",
        _first_line(limits),
        "",
        "| limit | value | what it bounds |",
        "| --- | --- | --- |",
    )
    for name, value in vars(limits).items():
        if isinstance(value, int | float):
            yield f"| `{name}` | {_number(value)} | {docstrings(limits).get(name, '')} |"


def anchor(name: str) -> str:
    """Where the page tells of the message or value of this name."""
    return f"#{name.lower()}"


def docstrings(of: ModuleType | type) -> dict[str, str]:
    """The docstrings under the assignments of a module or class, on one line each."""
    tree: Any = ast.parse(inspect.getsource(of))
    body = tree.body if isinstance(of, ModuleType) else tree.body[0].body
    found: dict[str, str] = {}
    for line, following in pairwise(body):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_text and isinstance(line, ast.Assign | ast.AnnAssign):
            target: Any = line.targets[0] if isinstance(line, ast.Assign) else line.target
            found[target.id] = " ".join(str(following.value.value).split())
    return found


def _structs(room: ModuleType) -> list[type[msgspec.Struct]]:
    return [
        kind
        for kind in vars(room).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == room.__name__
    ]


def _struct(kind: type[msgspec.Struct]) -> Iterator[str]:
    yield from ("", f"### {kind.__name__}", "", " ".join((kind.__doc__ or "").split()), "")
    if issubclass(kind, Message):
        yield from (f"`type`: `{kind.__struct_config__.tag}`", "")
    elif kind.__struct_config__.array_like:
        yield from ("Written as an array of its fields, in this order.", "")
    texts = docstrings(kind)
    shape: Any = shapes.type_info(kind)
    yield from ("| field | type | default | what it is |", "| --- | --- | --- | --- |")
    for field in shape.fields:
        default = "required" if field.required else _default(field)
        yield f"| `{field.name}` | {_type(field.type)} | {default} | {texts.get(field.name, '')} |"


def _default(field: Any) -> str:
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "all defaults"
    if value is None:
        return "nil"
    if value in (b"", "", [], {}) or isinstance(value, msgspec.Raw):
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, int | float) else f"`{value}`"


def _type(shape: Any) -> str:
    if isinstance(shape, shapes.UnionType):
        return " or ".join(_type(one) for one in shape.types)
    for kind, text in _TEXTS.items():
        if isinstance(shape, kind):
            return text(shape)
    raise TypeError(f"no words for {shape!r}")


def _literal(shape: shapes.LiteralType) -> str:
    return ", ".join(f"`{value}`" for value in shape.values)


def _str(shape: shapes.StrType) -> str:
    text = f"text{_counted(shape, ' characters')}"
    if shape.pattern is None:
        return text
    pattern = shape.pattern.removeprefix("^").removesuffix(r"\Z")
    return f"{text} matching `{pattern}`"


def _list(shape: shapes.ListType) -> str:
    return f"list{_counted(shape)} of {_type(shape.item_type)}"


def _tuple(shape: shapes.TupleType) -> str:
    return f"array of {', '.join(_type(one) for one in shape.item_types)}"


def _dict(shape: shapes.DictType) -> str:
    return f"map from {_type(shape.key_type)} to {_type(shape.value_type)}"


def _struct_type(shape: shapes.StructType) -> str:
    return f"[{shape.cls.__name__}]({anchor(shape.cls.__name__)})"


def _counted(shape: Any, unit: str = "") -> str:
    least, most = shape.min_length, shape.max_length
    if least is None and most is None:
        return ""
    if least == most:
        return f" ({_number(most)}{unit})"
    return f" ({_number(least)} to {_number(most)}{unit})" if least else f" (at most {_number(most)}{unit})"


def _bounded(name: str) -> Callable[[Any], str]:
    def text(shape: Any) -> str:
        bounds = (("from", shape.ge), ("above", shape.gt), ("to", shape.le), ("below", shape.lt))
        return " ".join([name, *(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)])

    return text


_TEXTS: dict[type, Callable[[Any], str]] = {
    shapes.IntType: _bounded("integer"),
    shapes.FloatType: _bounded("number"),
    shapes.BoolType: lambda _: "boolean",
    shapes.NoneType: lambda _: "nil",
    shapes.RawType: lambda _: "any value",
    shapes.BytesType: lambda shape: f"bytes{_counted(shape)}",
    shapes.StrType: _str,
    shapes.LiteralType: _literal,
    shapes.ListType: _list,
    shapes.TupleType: _tuple,
    shapes.DictType: _dict,
    shapes.StructType: _struct_type,
}


def _number(value: Any) -> str:
    """Powers of two from 2³¹ on as such, whole numbers with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:g}"
    for rest, sign in ((0, ""), (1, " − 1")):
        exponent = (value + rest).bit_length() - 1
        if exponent >= 31 and value + rest == 1 << exponent:
            return f"2{str(exponent).translate(_SUPERSCRIPT)}{sign}"
    return f"{value:,}"


_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _first_line(room: ModuleType) -> str:
    return (room.__doc__ or "").strip().splitlines()[0]
