"""What the scheduler says of models, typed: finding one by what a user calls it, and in which state it is; pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from llmos.infra.wording import in_words
from llmos.schemas.catalog import Model, NodeModels, Pin, Quarantined
from llmos.schemas.errors import Malformed, UnknownModel

T = TypeVar("T")

SHORTEST_IDENTITY = 8
"""Digits of an identity that name a model, if they are those of one only."""


class Catalog(msgspec.Struct):
    """The reply to a query for models."""

    models: list[Model]
    aliases: dict[str, str]
    pins: list[Pin] = []
    nodes: list[NodeModels] = []
    resident: dict[str, list[str]] = {}
    """Identity → names of devices."""

    def aliases_of(self, identity: str) -> list[str]:
        """The names that stand for a model."""
        return sorted(alias for alias, meant in self.aliases.items() if meant == identity)

    def pinned(self, identity: str) -> list[str]:
        """The devices on which a model is pinned; `*` stands for all."""
        return sorted(pin.device or "*" for pin in self.pins if pin.identity == identity)

    def nodes_with(self, identity: str) -> list[str]:
        """The nodes that have a model whole."""
        return sorted(node.node for node in self.nodes if identity in node.models)

    def quarantined(self) -> list[tuple[str, Quarantined]]:
        """(node, what it put in quarantine), by name."""
        found = [(node.node, entry) for node in self.nodes for entry in node.quarantined]
        return sorted(found, key=lambda pair: (pair[1].name, pair[0]))

    def problem(self, model: Model) -> str:
        """Why a model cannot be asked for; empty where it can."""
        if model.damaged is not None:
            return model.damaged.message
        if not self.nodes or self.nodes_with(model.identity):
            return ""
        for node, entry in self.quarantined():
            if entry.name == model.name:
                return f"in quarantine on {node}: {entry.error.message}"
        return "no node has it any more"

    def find(self, name: str) -> Model:
        """The model of a name, an alias, an identity or its beginning; of several of one name one that can be asked for.

        Raises:
            UnknownModel: there is none, or the beginning of an identity is that of several.
        """
        wanted = self.aliases.get(name, name)
        found = [model for model in self.models if wanted in (model.identity, model.name)]
        if not found and len(wanted) >= SHORTEST_IDENTITY:
            found = [model for model in self.models if model.identity.startswith(wanted)]
            if len(found) > 1:
                raise UnknownModel(model=name)
        if not found:
            raise UnknownModel(model=name)
        return min(found, key=lambda model: bool(self.problem(model)))


def read_reply(body: dict[str, Any], type_: type[T]) -> T:
    """The body of a reply as a typed value.

    Raises:
        Malformed: it is not one.
    """
    try:
        return msgspec.convert(body, type=type_)
    except msgspec.ValidationError as problem:
        raise Malformed(problem=f"the scheduler's reply: {in_words(problem)}") from None
