"""Checked reading of a model's own configuration files: the values an engine needs, or an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmos.schemas.errors import ModelDamaged


class ConfigReader:
    """Fields of a `config.json`; whatever is missing or of another type is a damaged model."""

    def __init__(self, values: Mapping[str, Any], directory: object) -> None:
        self._values = values
        self._directory = directory

    def damaged(self, problem: str) -> ModelDamaged:
        """The error to raise."""
        return ModelDamaged(directory=self._directory, problem=f"config.json: {problem}")

    def raw(self, name: str, default: Any = None) -> Any:
        """The field as it is, `default` where it is missing."""
        return self._values.get(name, default)

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`. Raises `ModelDamaged`."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.damaged(f"{name} is {value!r} and not a whole number of at least {least}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0. Raises `ModelDamaged`."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self.damaged(f"{name} is {value!r} and not a number above 0")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A string. Raises `ModelDamaged`."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise self.damaged(f"{name} is {value!r} and not a string")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false. Raises `ModelDamaged`."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.damaged(f"{name} is {value!r} and not true or false")
        return value

    def group(self, name: str) -> ConfigReader | None:
        """The object under `name`, None where there is none. Raises `ModelDamaged`."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.damaged(f"{name} is {value!r} and not an object")
        return ConfigReader(value, self._directory)
