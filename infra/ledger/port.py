"""The port to the ledger of back-pressure and the residency cache; Redis keeps it, or memory in tests and simulations.

Credits flow backwards: ingest takes a *hold* for a submission it admits; the scheduler takes a *lease* for each task on a device,
under its epoch; the lease ends with the attempt, the hold is released with the answer. Beside them stand the devices'
*windows*, what each tenant has spent of its rates, and the *nonces* of authenticated requests. Every count is the size of a
set, so that nothing can fall below zero; a release of what is not there is told.

Nothing here is the truth: the ledger may be emptied at any moment. Whoever meets `LedgerAway` goes on without
(ingest by the scheduler's live counts), and the scheduler's `reconcile` puts back what is live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

from llmos.schemas.catalog import Quotas
from llmos.schemas.job import Lane
from llmos.schemas.telemetry import Residency


class LedgerAway(Exception):
    """The ledger cannot be reached, or answered with an error; go on without it."""


class Hold(NamedTuple):
    """A submission's credit: `id` is `Head.hold`."""

    id: str
    lane: Lane
    size: int
    tenant: str


class Lease(NamedTuple):
    """A task on a device, in one attempt."""

    task: str
    """Its name: partition:s:part."""
    device: str
    epoch: int
    """Scheduler's term and attempt: a higher one takes the lease over, a lower one never does."""
    hold: str = ""
    """The credit of its submission."""


class Limit(NamedTuple):
    """Credits of one lane."""

    jobs: int
    bytes: int


class Limits(NamedTuple):
    """Credits reserved per lane, and shared by all beyond that."""

    lanes: Mapping[Lane, Limit]
    overflow: Limit


class LaneUse(NamedTuple):
    """What a lane holds now."""

    jobs: int
    bytes: int


class TenantUse(NamedTuple):
    """What a tenant has in flight, and what it has spent of its rates: requests and tokens not yet earned back."""

    jobs: int = 0
    bytes: int = 0
    requests: float = 0.0
    tokens: float = 0.0


Quota = Literal["jobs", "bytes", "requests", "tokens"]
QUOTAS: Final[tuple[Quota, ...]] = ("jobs", "bytes", "requests", "tokens")
"""What a quota may be about, in the order in which they are asked."""


class OverQuota(NamedTuple):
    """A hold that its tenant's quota does not allow; nothing was taken for it."""

    quota: Quota
    used: float
    limit: float
    retry_after: float
    """When it would be allowed, in seconds; of what is in flight nobody knows, and this is when to ask again."""


Held = Literal["taken", "known"] | OverQuota
"""What became of a hold: taken now, taken before, or refused."""


class Copied(NamedTuple):
    """A request whose nonce was seen at another origin; nothing was taken for it."""

    first: str
    """The origin at which it was seen first."""


Outcome = Held | Literal["noted"] | Copied
"""What became of a request; noted: it wants no credit, and its nonce is remembered."""


class Asked(NamedTuple):
    """A request, as it asks to be admitted."""

    tenant: str
    hold: Hold | None
    """The credit it wants; None: it is refused already, and only its nonce is to be remembered."""
    nonce: bytes = b""
    """Under this name, of up to 32 bytes, its tenant's request is taken once; empty: as often as it comes."""
    origin: str = ""
    """Where it was brought."""
    first: str = ""
    """Where the asker saw its nonce first, if elsewhere: what a ledger that was away or emptied is told."""


NO_QUOTAS: Final[Mapping[str, Quotas]] = MappingProxyType({})


class Ledger(Protocol):
    """All calls raise `LedgerAway` within the configured time-out."""

    async def admit(
        self,
        asked: Sequence[Asked],
        limits: Limits,
        seconds: float,
        quotas: Mapping[str, Quotas] = NO_QUOTAS,
        nonce_seconds: float = 0.0,
    ) -> list[Outcome]:
        """Takes requests in order, up to the first that does not fit into its lane; one outcome per request until then.

        Of each its nonce comes first: at another origin than the first one it is a copy, and that is all. A hold that exists
        already is known, and neither asked nor charged again. One that its tenant's quota (by name; none without an entry)
        does not allow takes nothing and does not stop those behind it; its nonce is remembered. An empty lane takes its
        first hold whatever its size, so that nothing waits for ever. Of the first that does not fit nothing is remembered but
        its nonce, of those behind it nothing at all. `seconds`: after this long a hold is taken back. `nonce_seconds`: for so
        long a nonce is remembered at least.
        """

    async def release(self, ids: Sequence[str]) -> None:
        """Gives credits back; unknown ids are nothing to it."""

    async def use(self) -> dict[Lane, LaneUse]:
        """What is held per lane."""

    async def tenants(self) -> dict[str, TenantUse]:
        """What tenants hold and have spent; those without anything may be missing."""

    async def charge(self, tokens: Mapping[str, int]) -> None:
        """Adds tokens, by tenant, to what is spent; also beyond what there is. Of tenants without such a quota nothing is
        kept."""

    async def generation(self) -> str | None:
        """A random name that `reconcile` writes; None or another one after the ledger was emptied."""

    async def reconcile(self, live: Sequence[Hold], seconds: float, grace_seconds: float) -> str:
        """Makes the ledger hold what is live: adds what is missing and drops holds older than `grace_seconds` that
        are not among `live`. Gives the (new) generation."""

    async def lease(self, leases: Sequence[Lease], seconds: float) -> list[bool]:
        """Takes leases, each for itself; False where the task is leased under a higher epoch.

        A lease of a higher epoch takes the task over, from whichever device has it; the same epoch renews it.
        `seconds`: after this long a lease that was not renewed ends by itself.
        """

    async def end_leases(self, ended: Sequence[tuple[str, int]]) -> int:
        """Ends leases (task, epoch), of that epoch or a lower one; gives how many were not there to be ended."""

    async def leases(self) -> dict[str, int]:
        """How many tasks are leased to each device that has any."""

    async def reconcile_leases(self, live: Sequence[Lease], term: int, seconds: float) -> int:
        """Makes the ledger hold the leases that are live: adds and renews these, ends all others whose epoch is of `term`
        or of an earlier one. Leases of a later scheduler stay as they are. Gives how many it ended."""

    async def put_windows(self, device: str, term: int, windows: Mapping[str, float]) -> bool:
        """Replaces a device's windows, by kind; False when a later scheduler's term wrote."""

    async def windows(self) -> dict[str, dict[str, float]]:
        """The windows of all devices, as they were last written."""

    async def put_residency(self, device: str, incarnation: int, residents: Sequence[Residency]) -> bool:
        """Replaces what `device` has resident, under `{device}:{identity}`; False when a higher incarnation wrote."""

    async def residency(self) -> dict[str, list[Residency]]:
        """What is resident where, as the cache knows it."""

    async def close(self) -> None:
        """Ends the connections."""
