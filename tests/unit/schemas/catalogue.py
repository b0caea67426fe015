"""Every message, value and codec of `llmos.schemas`, found by looking."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import llmos.schemas
from llmos.schemas.base import Codec, Message, Value


def modules() -> list[ModuleType]:
    """The rooms of `llmos.schemas`."""
    return [importlib.import_module(f"llmos.schemas.{found.name}") for found in pkgutil.iter_modules(llmos.schemas.__path__)]


def messages() -> list[type[Message]]:
    """Every message class."""
    return _below(Message)


def values() -> list[type[Value]]:
    """Every value class that can be inside of a message or a payload."""
    return [found for found in _below(Value) if found.__name__ != "Topic"]


def codecs() -> dict[str, Codec]:
    """Every codec by `module.NAME`."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, Codec)
    }


def tag(kind: type[Message]) -> str:
    """What is in the field `type` of this message."""
    return str(kind.__struct_config__.tag)


def _below(base: type) -> list:  # type: ignore[type-arg]
    modules()
    found = [kind for kind in base.__subclasses__() if kind.__module__.startswith("llmos.schemas.")]
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))
