"""What can still be read of a tenant after its own keys are destroyed: with which keys, where, and until when. Pure.

Every payload is wrapped for two: the tenant's key and a key of the system (`pool` in `sealed` and `work`, `ingress` in
`requests` and `admitted`, `dead` in `dead`). The tenant's is gone at once; the system's keys of its time open what is left,
until they are destroyed as well, or until the log has forgotten what they open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from llmos.infra.crypto.keyring import KeyEntry, Purpose
from llmos.schemas import topics
from llmos.schemas.catalog import Tenant
from llmos.schemas.limits import TIMEOUT_SECONDS

_REQUESTS: Final = tuple(topics.REQUESTS.values())
WORK: Final = "work.<device>"
IN_THE_CLEAR: Final = "no key protects them: they are there until the log forgets them, or their records are deleted"
OPENS: Final[dict[Purpose, tuple[str, ...]]] = {
    "pool": (topics.SEALED, WORK),
    "ingress": (*_REQUESTS, topics.ADMITTED),
    "dead": (topics.DEAD,),
}
"""What the system's keys open, by purpose."""
CLEAR: Final = (*_REQUESTS, topics.ADMITTED)
"""Where clear requests lie as they came."""
ANSWERS: Final = (topics.RESULTS, topics.PARTIALS, topics.STREAM)
"""Where answers lie: sealed for the asker, or in the clear where it may be so."""


class Left(NamedTuple):
    """Something that can still be read."""

    what: str
    topics: tuple[str, ...]
    key_id: str
    """The key that opens it; empty: none is needed, or none that the system has."""
    state: str
    """Of the key."""
    made_at: float
    retired_at: float
    until: float
    """When the log has forgotten it at the latest (Unix seconds), apart from the rest of a segment."""
    remedy: str


def left_of(
    tenant: Tenant | None, name: str, entries: Sequence[KeyEntry], kept: Mapping[str, float], now: float
) -> list[Left]:
    """What can be read once the tenant's own keys are destroyed at `now`.

    `tenant` is its row, None where it is gone already; `kept` is the retention of each topic in seconds.
    """
    made_at = tenant.made_at if tenant is not None else _since(name, entries)
    found = [
        left
        for entry in entries
        if entry.purpose in OPENS and entry.key and not _before(entry, made_at)
        for left in [_by_key(entry, kept, now)]
        if left.until > now
    ]
    if tenant is None or tenant.plaintext == "allow":
        found.append(_without_key("its requests that came in the clear", CLEAR, kept, now, IN_THE_CLEAR))
        found.append(_without_key("its answers in the clear", ANSWERS, kept, now, IN_THE_CLEAR))
    remedy = "whoever has its credentials opens them: they are the tenant's, to be deleted by it"
    found.append(_without_key("its answers, sealed to its reply keys", ANSWERS, kept, now, remedy))
    return found


def gone_at(left: Sequence[Left], now: float) -> float:
    """When nothing can be read any more, if no other key is destroyed (Unix seconds)."""
    return max((entry.until for entry in left), default=now)


def _by_key(entry: KeyEntry, kept: Mapping[str, float], now: float) -> Left:
    active = entry.state == "active"
    # Clients may go on sealing to an ingress key of before, until it is destroyed.
    in_use = active or not entry.retired_at or entry.purpose == "ingress"
    last = now if in_use else min(entry.retired_at, now)
    until = max(last + _stays(topic, kept) for topic in OPENS[entry.purpose])
    rotate = f"`llmos keys rotate {entry.purpose}`, then " if active else ""
    when = ", once its jobs are done" if entry.purpose in ("pool", "ingress") else ""
    return Left(
        what=_WHAT[entry.purpose],
        topics=OPENS[entry.purpose],
        key_id=entry.id,
        state=entry.state,
        made_at=entry.made_at,
        retired_at=entry.retired_at,
        until=until,
        remedy=f"{rotate}`llmos keys destroy {entry.id}`{when}",
    )


def _without_key(what: str, where: tuple[str, ...], kept: Mapping[str, float], now: float, remedy: str) -> Left:
    until = max(now + _stays(topic, kept) for topic in where)
    return Left(what, where, "", "", 0.0, 0.0, until, remedy)


def _stays(topic: str, kept: Mapping[str, float]) -> float:
    """How long after a key's last use a record that it opens may lie on a topic; a job's parts are put on `work` until the
    job ends, whatever the keys that are in use by then."""
    return kept[topic] + (TIMEOUT_SECONDS if topic == WORK else 0.0)


def _before(entry: KeyEntry, made_at: float) -> bool:
    """Whether the key was retired before the tenant was made."""
    return bool(entry.retired_at) and entry.retired_at < made_at


def _since(name: str, entries: Sequence[KeyEntry]) -> float:
    """When the tenant was made, by its keys."""
    return min((e.made_at for e in entries if e.purpose == "tenant" and e.tenant == name), default=0.0)


_WHAT: Final[dict[Purpose, str]] = {
    "pool": "its jobs as verify sealed them for the workers",
    "ingress": "its requests as its clients sealed them",
    "dead": "its requests that died",
}
