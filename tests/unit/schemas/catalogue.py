"""Every message, value, codec and error of llmos, found by looking."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import llmos.client.errors
import llmos.schemas
import llmos.schemas.errors
from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.errors import LlmosError


def modules() -> list[ModuleType]:
    """The rooms of `llmos.schemas`."""
    return [
        importlib.import_module(f"llmos.schemas.{found.name}") for found in pkgutil.iter_modules(llmos.schemas.__path__)
    ]


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


def errors_of_ours() -> list[type[LlmosError]]:
    """Every error class of the schemas and the client."""
    return [
        found
        for module in (llmos.schemas.errors, llmos.client.errors)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, LlmosError) and found.__module__ == module.__name__
    ]


def _below(base: type) -> list:  # type: ignore[type-arg]
    modules()
    found = [kind for kind in base.__subclasses__() if kind.__module__.startswith("llmos.schemas.")]
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))
