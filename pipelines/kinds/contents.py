"""What an input asks for beside the defaults: its content, which a digest is made of, and its numbers, for the receipt."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from llmos.schemas.job import Option


def content_of(request: msgspec.Struct) -> dict[str, Any]:
    """What differs from the defaults: equal work is equal content, whether a default was written out or not.

    Left to itself the encoder leaves out a default only where it meets the very object.
    """
    content = {}
    for name, default in _defaults(type(request)):
        value = getattr(request, name)
        if value != default:
            content[name] = value
    return content


def options_of(request: msgspec.Struct) -> list[Option]:
    """The numbers of `content_of`, as floats. Texts never: receipts and heads travel in the clear."""
    return [
        Option(name, float(value))
        for name, value in content_of(request).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


@lru_cache(maxsize=64)
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    # msgspec reads the annotations anew for each question, which costs more than everything else of a check.
    return tuple(
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
    )
