"""What a client may call a model: name, alias or identity, resolved by what `catalog` says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llmos.schemas.base import Message
from llmos.schemas.catalog import Alias, Model, NodeModels, Quarantined
from llmos.schemas.errors import ModelGone, ModelQuarantined, UnknownModel

SHORTEST_IDENTITY = 8
"""Hexadecimal digits at the beginning of an identity that may stand for it."""


class _InQuarantine(NamedTuple):
    node: NodeModels
    what: Quarantined


class Names:
    """The names in a catalog as it is at one moment; does not change."""

    def __init__(self, rows: Iterable[Message]) -> None:
        self._models: dict[str, Model] = {}
        self._by_name: dict[str, list[Model]] = {}
        self._aliases: dict[str, str] = {}
        self._told_at: dict[str, float] | None = None
        """When a node last told that it has a model, by identity; none: no node ever told, as in logs of before."""
        self._quarantined: dict[str, _InQuarantine] = {}
        """By name, as told of last."""
        for row in rows:
            if isinstance(row, Model):
                self._models[row.identity] = row
                self._by_name.setdefault(row.name, []).append(row)
            elif isinstance(row, Alias):
                self._aliases[row.name] = row.identity
            elif isinstance(row, NodeModels):
                self._take_node(row)

    def find(self, name: str) -> Model:
        """The model of that name, or of an identity's first 8 digits or more, whether or not a node has it whole.

        Raises:
            UnknownModel: there is none, or the beginning of an identity is that of several.
        """
        found = self._called(name)
        if not found:
            raise UnknownModel(model=name)
        return max(found, key=lambda model: (self._told_at or {}).get(model.identity, -1.0))

    def resolve(self, name: str) -> Model:
        """The model of that name.

        An alias goes before a name. Of several models of one name it is one that a node has, the one that was told of
        last; of several of those, and where no node ever told, the first.

        Raises:
            UnknownModel: nothing has that name.
            ModelQuarantined: no node has it whole, and one has it damaged.
            ModelGone: no node has it any more.
        """
        found = self._called(name)
        if self._told_at is None:
            if not found:
                raise UnknownModel(model=name)
            return found[0]
        held = [model for model in found if model.identity in self._told_at]
        if held:
            told_at = self._told_at
            return max(held, key=lambda model: told_at[model.identity])
        for called in [name, *(model.name for model in found)]:
            if called in self._quarantined:
                raise _quarantined(name, self._quarantined[called])
        if found:
            raise ModelGone(model=name)
        raise UnknownModel(model=name)

    def _called(self, name: str) -> list[Model]:
        if name in self._aliases:
            model = self._models.get(self._aliases[name])
            return [] if model is None else [model]
        if name in self._models:
            return [self._models[name]]
        if name in self._by_name:
            return self._by_name[name]
        if len(name) < SHORTEST_IDENTITY:
            return []
        begun = [model for identity, model in self._models.items() if identity.startswith(name)]
        return begun if len(begun) == 1 else []

    def _take_node(self, row: NodeModels) -> None:
        told_at = self._told_at = {} if self._told_at is None else self._told_at
        for identity in row.models:
            told_at[identity] = max(row.at, told_at.get(identity, 0.0))
        for what in row.quarantined:
            before = self._quarantined.get(what.name)
            if before is None or before.node.at < row.at:
                self._quarantined[what.name] = _InQuarantine(row, what)


def _quarantined(name: str, found: _InQuarantine) -> ModelQuarantined:
    """The refusal; the directory is for the operator, not for clients."""
    problem = found.what.error.message.removeprefix(f"Model directory {found.what.directory} cannot be used: ")
    return ModelQuarantined(model=name, node=found.node.node, problem=problem.removesuffix("."))
