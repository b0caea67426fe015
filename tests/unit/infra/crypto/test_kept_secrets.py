"""Secrets that serve for a while: a minute, under the keys of now, so many of them, and not a moment longer."""

from __future__ import annotations

import asyncio
import os

import pytest

from llmos.infra.crypto.envelope import Secret
from llmos.infra.crypto.kept_secrets import RENEW_SECONDS, SWEEP_SECONDS, KeptSecrets
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.simulation import run
from llmos.infra.simulation.clock import VirtualClock

NOW = 1_800_000_000.0
KEYS = Keyring.memory("demo")


def make() -> Secret:
    """A fresh one."""
    return Secret.under(KEYS, ["tenant", "pool"], "demo")


def test_one_serves_a_minute() -> None:
    """Then, or where the clock went back, there is another one."""
    kept: KeptSecrets[str] = KeptSecrets()
    first = kept.get("a", NOW, make)
    assert kept.get("a", NOW + RENEW_SECONDS - 0.1, make) is first
    assert kept.get("b", NOW, make) is not first
    later = kept.get("a", NOW + RENEW_SECONDS, make)
    assert later is not first
    assert kept.get("a", NOW, make) is not later


def test_those_used_last_are_kept() -> None:
    """So many."""
    kept: KeptSecrets[int] = KeptSecrets(most=2)
    first = kept.get(0, NOW, make)
    second = kept.get(1, NOW, make)
    assert kept.get(0, NOW, make) is first
    kept.get(2, NOW, make)
    assert len(kept) == 2
    assert kept.get(0, NOW, make) is first
    assert kept.get(1, NOW, make) is not second


def test_other_keys_end_it_at_once() -> None:
    """What was wrapped by the keys of before is let go of."""
    kept: KeptSecrets[str] = KeptSecrets()
    first = kept.get("a", NOW, make)
    assert kept.get("a", NOW, make, list(first.key_ids)) is first
    other = kept.get("a", NOW, make, [first.key_ids[0], "ab"])
    assert other is not first
    assert len(kept) == 1


def test_a_fork_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child must not go on with one."""
    kept: KeptSecrets[str] = KeptSecrets()
    first = kept.get("a", NOW, make)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert kept.get("a", NOW, make) is not first


def test_any_use_lets_go_of_all_that_are_too_old() -> None:
    """Also of those that nobody asks for any more."""
    kept: KeptSecrets[str] = KeptSecrets()
    for name in ("a", "b", "c"):
        kept.get(name, NOW, make)
    kept.get("d", NOW + RENEW_SECONDS - 1, make)
    assert len(kept) == 4
    kept.get("d", NOW + RENEW_SECONDS, make)
    assert len(kept) == 1


def test_a_service_lets_go_of_them_although_nobody_asks() -> None:
    """A moment after their time."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        kept: KeptSecrets[str] = KeptSecrets()
        sweeping = asyncio.create_task(kept.run(clock.now))
        kept.get("a", clock.now(), make)
        await asyncio.sleep(RENEW_SECONDS - SWEEP_SECONDS)
        assert len(kept) == 1
        await asyncio.sleep(3 * SWEEP_SECONDS)
        assert len(kept) == 0
        sweeping.cancel()

    run(main)


def test_one_that_was_replaced_is_not_dropped_in_the_other_s_place() -> None:
    """Whoever lets go names which."""
    kept: KeptSecrets[str] = KeptSecrets()
    first = kept.get("a", NOW, make)
    second = kept.get("a", NOW + RENEW_SECONDS, make)
    kept.drop("a", first)
    assert kept.get("a", NOW + RENEW_SECONDS, make) is second
    kept.drop("a", second)
    kept.drop("a", second)
    assert len(kept) == 0


def test_what_cannot_be_made_is_not_kept() -> None:
    """It is tried again with the next use."""
    kept: KeptSecrets[str] = KeptSecrets()

    def fail() -> Secret:
        raise ValueError("none")

    with pytest.raises(ValueError, match="none"):
        kept.get("a", NOW, fail)
    assert len(kept) == 0
    assert kept.get("a", NOW, make) is not None
