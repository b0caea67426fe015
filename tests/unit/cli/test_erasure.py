"""What can still be read of an erased tenant, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.cli.erasure import CLEAR, Left, gone_at, left_of
from llmos.infra.crypto.keyring import KeyEntry, Keyring
from llmos.schemas import topics
from llmos.schemas.catalog import Tenant
from llmos.schemas.topics import TABLE

HOUR, DAY = 3600.0, 86_400.0
NOW = 1_700_000_000.0
KEPT = {topic.name: topic.retention_seconds or 0.0 for topic in TABLE}


def key(purpose: Any, id_: str = "k", **fields: Any) -> KeyEntry:
    values: dict[str, Any] = {"state": "active", "key": b"k" * 32, "made_at": NOW - 10 * DAY} | fields
    return KeyEntry(id=id_, purpose=purpose, **values)


def retired(purpose: Any, age: float, id_: str = "k") -> KeyEntry:
    return key(purpose, id_, state="decrypt_only", retired_at=NOW - age)


def left(entry: KeyEntry, **fields: Any) -> list[Left]:
    """What is left by this key, of a tenant that was made five days ago and must seal."""
    tenant = Tenant(name="acme", **({"plaintext": "forbid", "made_at": NOW - 5 * DAY} | fields))
    return [one for one in left_of(tenant, "acme", [entry], KEPT, NOW) if one.key_id]


@pytest.mark.parametrize(
    ("entry", "until"),
    [
        pytest.param(key("pool"), NOW + 2 * DAY, id="pool: as long as sealed is kept"),
        pytest.param(retired("pool", 1 * DAY), NOW + 1 * DAY, id="from its retirement on"),
        pytest.param(retired("pool", 2 * DAY), None, id="the log has forgotten it all"),
        pytest.param(key("ingress"), NOW + 7 * DAY, id="ingress: as long as requests are kept"),
        pytest.param(retired("ingress", 4 * DAY), NOW + 7 * DAY, id="clients may have gone on sealing to it"),
        pytest.param(key("dead"), NOW + 30 * DAY, id="dead letters"),
        pytest.param(retired("dead", 4 * DAY), NOW + 26 * DAY, id="dead letters, of a key before"),
        pytest.param(retired("dead", 6 * DAY), None, id="retired before the tenant was made"),
        pytest.param(key("pool", state="destroyed", key=b""), None, id="destroyed"),
        pytest.param(key("system"), None, id="opens no payload"),
        pytest.param(key("tenant", tenant="globex"), None, id="another's"),
    ],
)
def test_keys_of_its_time_that_open_what_is_left(entry: KeyEntry, until: float | None) -> None:
    """With where it lies, and until when at the latest."""
    assert [one.until for one in left(entry)] == ([] if until is None else [until])


def test_how_to_end_it_sooner() -> None:
    """An active key is rotated first; what has no key is the log's to forget."""
    (active,), (before,) = left(key("pool", "a")), left(retired("pool", HOUR, "b"))
    assert active.remedy.startswith("`llmos keys rotate pool`, then `llmos keys destroy a`")
    assert before.remedy.startswith("`llmos keys destroy b`")
    assert "work.<device>" in active.topics


@pytest.mark.parametrize(("plaintext", "clear"), [("allow", True), ("forbid", False)])
def test_what_needs_no_key(plaintext: Any, clear: bool) -> None:
    """Answers in any case; clear ones, and clear requests, of those that might send them."""
    tenant = Tenant(name="acme", plaintext=plaintext, made_at=NOW)
    found = left_of(tenant, "acme", [], KEPT, NOW)
    assert (CLEAR in [one.topics for one in found]) == clear
    assert gone_at(found, NOW) == NOW + 7 * DAY
    assert any(topics.RESULTS in one.topics for one in found)


def test_a_row_that_is_gone_is_no_hindrance() -> None:
    """What was cut off after the tombstone is told by the tenant's keys."""
    own = key("tenant", "t", tenant="acme", made_at=NOW - DAY, state="destroyed", key=b"")
    found = left_of(None, "acme", [own, retired("pool", 2 * HOUR), retired("dead", 2 * DAY, "d")], KEPT, NOW)
    assert [one.key_id for one in found if one.key_id] == ["k"]


def test_of_a_true_keyring() -> None:
    """Pool, ingress and dead keys, each once; nothing for a tenant's own keys that are destroyed."""
    keys = Keyring.memory("acme")
    own = [entry.id for entry in keys.entries if entry.purpose == "tenant"]
    for key_id in own:
        keys = keys.destroyed(key_id, active=True)
    found = left_of(Tenant(name="acme", made_at=1.0), "acme", keys.entries, KEPT, keys.entries[0].made_at + 1.0)
    purposes = {entry.id: entry.purpose for entry in keys.entries}
    assert sorted(purposes[one.key_id] for one in found if one.key_id) == ["dead", "ingress", "pool"]
