"""What a device is called: `cpu:1/2` is the second of two shares of the CPU. No torch here, a node reads it too.

`kind:k/n` says share k (from 0) of n; of accelerators, the one with index k. Options of a back end may follow, as in an
address: `emulated:0/2?speed=0.33&seed=7`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from llmos.schemas.errors import BadSetting

_SPEC = re.compile(r"^(?P<kind>[a-z]{1,16}):(?P<share>\d{1,4})/(?P<shares>\d{1,4})(?:\?(?P<options>.+))?$", re.ASCII)
_OPTION = re.compile(r"^(?P<name>[a-z_]{1,32})=(?P<value>[A-Za-z0-9_.,:+-]{1,256})$", re.ASCII)


class DeviceSpec(NamedTuple):
    """A parsed spec: share `share` (from 0) of `shares` of what the back end `kind` has."""

    kind: str
    share: int
    shares: int
    options: tuple[tuple[str, str], ...] = ()
    """Names and values, in the order in which they were written."""

    @property
    def text(self) -> str:
        """The spec as settings write it."""
        options = "&".join(f"{name}={value}" for name, value in self.options)
        return f"{self.kind}:{self.share}/{self.shares}" + (f"?{options}" if options else "")

    @property
    def label(self) -> str:
        """The part of a device's name that follows the node's: `cpu0`."""
        return f"{self.kind}{self.share}"

    def settings(self, known: Mapping[str, str]) -> dict[str, str]:
        """The options over `known`, the defaults by name. Raises `BadSetting` for one that is not known."""
        for name, _ in self.options:
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                raise BadSetting(
                    setting="worker.device", problem=f"{self.kind} has no option {name!r}; its options: {names}"
                )
        return {**known, **dict(self.options)}


def parse_spec(spec: str) -> DeviceSpec:
    """Reads `kind:k/n`, with options where there are any.

    Raises:
        BadSetting: it is not of that form, k is not below n, or an option is there twice.
    """
    match = _SPEC.match(spec)
    if match is None or spec.endswith("\n"):
        raise BadSetting(setting="worker.device", problem=f"{spec!r} is not of the form kind:k/n, as cpu:0/2")
    share, shares = int(match["share"]), int(match["shares"])
    if share >= shares:
        raise BadSetting(setting="worker.device", problem=f"share {share} of {spec!r} is not below {shares}")
    options = tuple(_option(spec, text) for text in match["options"].split("&")) if match["options"] else ()
    if len({name for name, _ in options}) < len(options):
        raise BadSetting(setting="worker.device", problem=f"an option of {spec!r} is there twice")
    return DeviceSpec(match["kind"], share, shares, options)


def device_label(spec: str) -> str:
    """`cpu:1/2` → `cpu1`, the end of a device's name. Raises `BadSetting`."""
    return parse_spec(spec).label


def _option(spec: str, text: str) -> tuple[str, str]:
    match = _OPTION.match(text)
    if match is None:
        raise BadSetting(setting="worker.device", problem=f"{text!r} in {spec!r} is not of the form name=value")
    return match["name"], match["value"]
