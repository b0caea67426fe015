"""All task kinds by name."""

from __future__ import annotations

from llmos.pipelines.kinds.base import Kind
from llmos.pipelines.kinds.echo import Echo
from llmos.pipelines.kinds.embed import Embed
from llmos.pipelines.kinds.generate import Generate
from llmos.schemas.errors import UnknownKind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Generate(), Embed(), Echo())}


def kind_named(name: str) -> Kind:
    """The kind. Raises `UnknownKind`."""
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownKind(kind=name, known=", ".join(sorted(KINDS)))
    return kind
