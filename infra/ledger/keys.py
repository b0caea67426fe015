"""Every key of the ledger in Redis, made in one place; `{ledger}` keeps them in one slot of a cluster."""

from __future__ import annotations

from typing import NamedTuple


class Keys(NamedTuple):
    """Key names under a prefix."""

    holds: str
    """Hash: hold id → "lane:size:granted_at:tenant"."""
    ends: str
    """Sorted set: hold id by the Redis time at which it is taken back."""
    use: str
    """Hash: "<lane>:jobs" and "<lane>:bytes", "@<tenant>:jobs" and "@<tenant>:bytes" → sums over `holds`."""
    generation: str
    """String: a random name; gone when the ledger was emptied."""
    leases: str
    """Hash: task → "epoch device hold", the epoch in 19 digits."""
    lease_ends: str
    """Sorted set: task by the Redis time at which its lease ends by itself."""
    lease_devices: str
    """Sorted set, all of score 0: "<device> <task>", so that a device's tasks lie side by side and are counted at once."""
    windows: str
    """Hash: device → "term windows", the term in 19 digits, the windows as MessagePack of kind → size."""
    residency: str
    """Hash: "<device>:<identity>" → MessagePack of a `Residency`."""
    devices: str
    """Hash: device → MessagePack of [incarnation, its fields in `residency`]."""
    spent: str
    """Hash: tenant → MessagePack of [requests, tokens, at, rate of requests, rate of tokens]: see `quotas`."""
    nonces: str
    """Begins the names of two hashes per tenant, "young" and "old": nonce (its bytes) → the origin at which it was seen first."""
    probe: str
    """String: written to see whether the ledger takes writes."""

    @staticmethod
    def under(prefix: str) -> Keys:
        """The keys of the ledger with this prefix."""
        return Keys(*(f"{prefix}{{ledger}}:{name}" for name in Keys._fields))

    @property
    def credits(self) -> tuple[str, ...]:
        """What the scripts about holds touch, in their order."""
        return (self.holds, self.ends, self.use, self.generation)

    @property
    def quotas(self) -> tuple[str, ...]:
        """What the scripts about quotas touch, in their order."""
        return (*self.credits, self.spent)

    def nonces_of(self, tenant: str) -> tuple[str, str]:
        """The younger and the older hash of a tenant's nonces."""
        return (f"{self.nonces}:{tenant}:young", f"{self.nonces}:{tenant}:old")

    @property
    def lent(self) -> tuple[str, ...]:
        """What the scripts about leases touch, in their order."""
        return (self.leases, self.lease_ends, self.lease_devices, self.generation)

    @property
    def cache(self) -> tuple[str, ...]:
        """What the scripts about residency touch, in their order."""
        return (self.residency, self.devices)


def resident_field(device: str, identity: str) -> str:
    """A model on a device in the hash `residency`."""
    return f"{device}:{identity}"


def device_of(field: str, identity: str) -> str:
    """The device in a field of the hash `residency` (device names may hold colons)."""
    return field[: -len(identity) - 1]
