"""What a device is called: `cpu:1/2` is the second of two shares of the CPU. No torch here, a node reads it too."""

from __future__ import annotations

import re
from typing import NamedTuple

from llmos.schemas.errors import BadSetting

_SPEC = re.compile(r"^(?P<kind>[a-z]{1,16}):(?P<share>\d{1,4})/(?P<shares>\d{1,4})$")


class DeviceSpec(NamedTuple):
    """A parsed spec: share `share` (from 0) of `shares` of what the back end `kind` has."""

    kind: str
    share: int
    shares: int

    @property
    def text(self) -> str:
        """The spec as settings write it."""
        return f"{self.kind}:{self.share}/{self.shares}"

    @property
    def label(self) -> str:
        """The part of a device's name that follows the node's: `cpu0`."""
        return f"{self.kind}{self.share}"


def parse_spec(spec: str) -> DeviceSpec:
    """Reads `kind:k/n`.

    Raises:
        BadSetting: it is not of that form, or k is not below n.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise BadSetting(setting="worker.device", problem=f"{spec!r} is not of the form kind:k/n, as cpu:0/2")
    share, shares = int(match["share"]), int(match["shares"])
    if share >= shares:
        raise BadSetting(setting="worker.device", problem=f"share {share} of {spec!r} is not below {shares}")
    return DeviceSpec(match["kind"], share, shares)


def device_label(spec: str) -> str:
    """`cpu:1/2` → `cpu1`, the end of a device's name. Raises `BadSetting`."""
    return parse_spec(spec).label
