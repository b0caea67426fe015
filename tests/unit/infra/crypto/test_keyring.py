"""The keyring in memory: wraps for those who hold a key, rotates, destroys, authenticates, signs, and shows nothing."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto import hpke
from llmos.infra.crypto.keyring import (
    ALGORITHMS,
    PURPOSES,
    KeyEntry,
    Keyring,
    Purpose,
    SystemKeys,
    fresh_key,
)
from llmos.infra.crypto.roles import for_service
from llmos.infra.crypto.signatures import check_signature
from llmos.schemas.errors import BadSetting, EnvelopeRejected

WRAPPING: tuple[Purpose, ...] = ("pool", "tenant", "system", "ingress", "dead")


def tenant_of(purpose: Purpose) -> str:
    """Keys of purpose `tenant` have a name."""
    return "demo" if purpose == "tenant" else ""


def test_memory_has_all_that_a_system_needs() -> None:
    """One active key per purpose, of its algorithm, and one for each tenant; it is a `SystemKeys`."""
    keys: SystemKeys = Keyring.memory("demo", "acme")
    assert isinstance(keys, Keyring)
    found = [(e.purpose, e.tenant, e.algorithm, e.state) for e in keys.entries]
    assert sorted(found) == sorted(
        [(p, "", ALGORITHMS[p], "active") for p in PURPOSES if p != "tenant"]
        + [("tenant", name, "aes-256-gcm", "active") for name in ("demo", "acme")]
    )


@pytest.mark.parametrize("purpose", WRAPPING)
def test_wrapping_is_bound_to_context_and_key(purpose: Purpose) -> None:
    """Another context, another key, or any changed byte opens nothing; wrapping twice differs."""
    keyring = Keyring.memory("demo")
    key_id, wrapped = keyring.wrap(purpose, b"secret", b"job", tenant_of(purpose))
    assert keyring.unwrap(key_id, wrapped, b"job") == b"secret"
    assert keyring.wrap(purpose, b"secret", b"job", tenant_of(purpose))[1] != wrapped
    tries = [(e.id, wrapped, b"job") for e in keyring.entries if e.id != key_id]
    tries += [(key_id, wrapped, b"jo"), ("00", wrapped, b"job"), (key_id, b"", b"job"), (key_id, wrapped[:20], b"job")]
    tries += [(key_id, wrapped[:i] + bytes([wrapped[i] ^ 1]) + wrapped[i + 1 :], b"job") for i in range(len(wrapped))]
    for attempt in tries:
        with pytest.raises(EnvelopeRejected):
            keyring.unwrap(*attempt)


@pytest.mark.parametrize("purpose", ["operator", "control", "receipt"])
def test_keys_that_authenticate_or_sign_wrap_nothing(purpose: Purpose) -> None:
    """Their bytes have one use."""
    with pytest.raises(BadSetting, match="wraps nothing"):
        Keyring.memory().wrap(purpose, b"secret", b"job")


def test_a_key_that_is_missing_is_named() -> None:
    """And how to make it."""
    keyring = Keyring.memory()
    assert keyring.holds("pool")
    assert not keyring.holds("tenant", "demo")
    with pytest.raises(BadSetting, match=r"'tenant' of tenant demo; `llmos keys init`"):
        keyring.wrap("tenant", b"", b"", "demo")


def test_the_public_half_seals_and_does_nothing_else() -> None:
    """Of pairs: it neither opens nor signs."""
    whole = Keyring.memory()
    half = Keyring(msgspec.structs.replace(e, key=b"") for e in whole.entries if e.public)
    key_id, wrapped = half.wrap("dead", b"secret", b"job")
    assert whole.unwrap(key_id, wrapped, b"job") == b"secret"
    assert not half.has(key_id)
    with pytest.raises(EnvelopeRejected):
        half.unwrap(key_id, wrapped, b"job")
    with pytest.raises(BadSetting, match="not held here"):
        half.sign("receipt", b"data")


@pytest.mark.parametrize("purpose", ["operator", "system"])
def test_a_mac_holds_for_its_data_and_purpose(purpose: Purpose) -> None:
    """Also after a rotation, until the key is destroyed; never for another purpose, a cut tag or nothing."""
    keyring = Keyring.memory()
    old = keyring.active(purpose).id
    tag = keyring.mac(purpose, b"data")
    rotated = keyring.rotated(purpose)
    assert rotated.mac(purpose, b"data") != tag
    for ring in (keyring, rotated):
        assert ring.check_mac(purpose, b"data", tag)
        assert not ring.check_mac(purpose, b"dat4", tag)
        assert not any(ring.check_mac(other, b"data", tag) for other in ("ingress", "pool"))
        assert not any(ring.check_mac(purpose, b"data", wrong) for wrong in (b"", tag[:16], tag + b"\0", bytes(32)))
    assert not rotated.destroyed(old).check_mac(purpose, b"data", tag)
    assert not Keyring([]).check_mac(purpose, b"data", tag)


def test_a_signature_is_checked_with_the_public_half() -> None:
    """The id tells which, also after a rotation."""
    keyring = Keyring.memory().rotated("receipt")
    key_id, signature = keyring.sign("receipt", b"data")
    public = {e.id: e.public for e in keyring.entries if e.purpose == "receipt"}
    assert len(signature) == 64
    assert check_signature(public.pop(key_id), b"data", signature)
    assert not check_signature(*public.values(), b"data", signature)


def test_who_checks_orders_can_make_none() -> None:
    """With the public half of `control` alone; an order holds from when its key is prepared until it is destroyed."""
    keyring = Keyring.memory().prepared("control")
    old = keyring.active("control").id
    _, signature = keyring.sign("control", b"order")
    rotated = keyring.rotated("control")
    for ring in (keyring, rotated):
        half = Keyring(msgspec.structs.replace(e, key=b"") for e in ring.entries if e.purpose == "control")
        for holder in (ring, half):
            assert holder.check_signed("control", b"order", signature)
            assert holder.check_signed("control", b"order", rotated.sign("control", b"order")[1])
            assert not holder.check_signed("control", b"orde", signature)
            assert not holder.check_signed("receipt", b"order", signature)
            for wrong in (b"", bytes(32), signature[:-1], signature + b"\0", bytes(64)):
                assert not holder.check_signed("control", b"order", wrong)
        with pytest.raises(BadSetting, match="not held here"):
            half.sign("control", b"order")
        for ring_ in (ring, half):
            with pytest.raises(BadSetting, match="not held here"):
                ring_.mac("control", b"order")
            assert not ring_.check_mac("control", b"order", bytes(32))
    assert not rotated.destroyed(old).check_signed("control", b"order", signature)
    assert not Keyring([]).check_signed("control", b"order", signature)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_key_for_orders_of_before_is_replaced_by_a_pair(prepared: bool) -> None:
    """It was symmetric, so that whoever checked could sign: it counts as missing, and is retired where a pair is made."""
    before = KeyEntry(id="ab", purpose="control", state="active", key=os.urandom(32), algorithm="hmac-sha256")
    waiting = msgspec.structs.replace(before, id="cd", state="decrypt_only")
    rest = [e for e in Keyring.memory().entries if e.purpose != "control"]
    keyring = Keyring([*rest, before, *([waiting] if prepared else [])])
    assert not keyring.holds("control")
    assert keyring.waiting("control") is None
    with pytest.raises(BadSetting, match="keys init"):
        keyring.sign("control", b"order")
    for whole in (keyring.completed(), keyring.rotated("control")):
        assert whole.active("control").algorithm == "ed25519"
        assert whole.check_signed("control", b"order", whole.sign("control", b"order")[1])
        old = next(e for e in whole.entries if e.id == "ab")
        assert (old.state, old.retired_at > 0) == ("decrypt_only", True)
        assert whole.completed() is whole
        for service in ("worker", "node"):
            held = for_service(whole, service).entries
            assert [e.id for e in held if e.purpose == "control"] == [whole.active("control").id]


@pytest.mark.parametrize("algorithm", ["x25519", "mlkem768-x25519"])
def test_a_pair_rotates_to_the_algorithm_that_is_wanted(algorithm: Any) -> None:
    """The old one still opens."""
    keyring = Keyring.memory()
    before = keyring.wrap("ingress", b"secret", b"job")
    rotated = keyring.rotated("ingress", algorithm=algorithm)
    assert rotated.active("ingress").algorithm == algorithm
    assert rotated.unwrap(*before, b"job") == rotated.unwrap(*rotated.wrap("ingress", b"secret", b"job"), b"job")


def test_a_prepared_key_opens_and_checks_before_anybody_uses_it() -> None:
    """A copy that has it opens what another wraps after its rotation, and checks what it signs."""
    before = Keyring.memory()
    copy = before.prepared("pool").prepared("operator").prepared("control")
    rotated = copy.rotated("pool").rotated("operator").rotated("control")
    assert copy.active("pool") == before.active("pool")
    assert rotated.active("pool").id == copy.waiting("pool").id  # type: ignore[union-attr]
    assert rotated.waiting("pool") is None
    key_id, wrapped = rotated.wrap("pool", b"secret", b"job")
    assert copy.unwrap(key_id, wrapped, b"job") == b"secret"
    assert copy.check_mac("operator", b"command", rotated.mac("operator", b"command"))
    assert copy.check_signed("control", b"order", rotated.sign("control", b"order")[1])
    with pytest.raises(BadSetting, match="prepared already"):
        copy.prepared("pool")


def test_a_prepared_key_of_another_algorithm_waits_on() -> None:
    """Who asks for an algorithm gets it."""
    keyring = Keyring.memory().prepared("ingress")
    hybrid = keyring.rotated("ingress", algorithm="mlkem768-x25519")
    assert hybrid.active("ingress").algorithm == "mlkem768-x25519"
    assert hybrid.waiting("ingress") == keyring.waiting("ingress")
    assert keyring.rotated("ingress", algorithm="x25519").waiting("ingress") is None


def test_rotations_and_destructions_are_dated() -> None:
    """When it was made, retired, destroyed; a destroyed key's bytes are gone."""
    keyring = Keyring.memory().rotated("pool")
    old = next(e for e in keyring.entries if e.state == "decrypt_only")
    assert old.made_at <= old.retired_at <= keyring.active("pool").made_at
    gone = next(e for e in keyring.destroyed(old.id).entries if e.id == old.id)
    assert (gone.state, gone.key) == ("destroyed", b"")
    assert gone.destroyed_at >= old.retired_at


def test_an_active_key_is_destroyed_only_where_that_is_meant() -> None:
    """It must be rotated first; a tenant that is erased has none any more."""
    keyring = Keyring.memory("demo")
    key = keyring.active("tenant", "demo").id
    for key_id in (key, "00"):
        with pytest.raises(BadSetting, match="rotate it first"):
            keyring.destroyed(key_id)
    gone = keyring.destroyed(key, active=True)
    assert not gone.holds("tenant", "demo")
    with pytest.raises(BadSetting):
        gone.destroyed(key, active=True)


@pytest.mark.parametrize(
    "entry",
    [
        KeyEntry(id="ab", purpose="pool", state="active", key=bytes(31)),
        KeyEntry(id="ab", purpose="pool", state="active"),
        KeyEntry(id="ab", purpose="pool", state="destroyed", key=bytes(32)),
        KeyEntry(id="AB", purpose="pool", state="active", key=bytes(32)),
        KeyEntry(id="a" * 65, purpose="pool", state="active", key=bytes(32)),
        KeyEntry(id="", purpose="pool", state="active", key=bytes(32)),
        KeyEntry(id="ab", purpose="tenant", state="active", key=bytes(32)),
        KeyEntry(id="ab", purpose="pool", tenant="demo", state="active", key=bytes(32)),
        KeyEntry(id="ab", purpose="pool", state="active", key=bytes(32), public=bytes(32)),
        msgspec.structs.replace(fresh_key("ingress"), id="ab"),
        msgspec.structs.replace(fresh_key("ingress"), key=os.urandom(32)),
        msgspec.structs.replace(fresh_key("receipt"), key=os.urandom(32)),
        msgspec.structs.replace(fresh_key("ingress"), public=b""),
        msgspec.structs.replace(fresh_key("ingress"), key=fresh_key("ingress", algorithm="mlkem768-x25519").key),
    ],
)
def test_a_key_that_is_not_whole_is_refused(entry: KeyEntry) -> None:
    """Lengths, states, names, and halves of a pair that do not belong together; no key is in the message."""
    with pytest.raises(BadSetting) as caught:
        Keyring([entry])
    assert not entry.key or repr(entry.key) not in str(caught.value)


def test_two_keys_of_one_id_or_two_active_ones_are_refused() -> None:
    """Nothing is guessed."""
    first, second = fresh_key("pool"), fresh_key("pool")
    for entries in ([first, second], [first, msgspec.structs.replace(second, id=first.id, state="decrypt_only")]):
        with pytest.raises(BadSetting):
            Keyring(entries)
    Keyring([first, msgspec.structs.replace(second, state="decrypt_only")])
    Keyring([fresh_key("tenant", "a"), fresh_key("tenant", "b")])


def test_no_key_is_shown_by_repr() -> None:
    """Neither by the keyring nor by its entries: they end up in logs and tracebacks."""
    keyring = Keyring.memory("demo")
    shown = repr(keyring) + str(keyring.entries[0])
    assert keyring.entries[0].id in shown
    assert not any(repr(entry.key)[2:-1] in shown or entry.key.hex() in shown for entry in keyring.entries)


def test_a_key_s_id_says_which_public_half_it_is() -> None:
    """So that a client can name it."""
    entry = fresh_key("ingress")
    assert entry.id == hpke.key_id_of(entry.public)


@given(
    st.lists(
        st.tuples(st.sampled_from(["rotate", "prepare", "destroy"]), st.sampled_from(WRAPPING), st.integers(0, 5)),
        max_size=12,
    )
)
def test_what_was_wrapped_opens_if_and_only_if_its_key_is_not_destroyed(steps: list[tuple[str, Purpose, int]]) -> None:
    """Through any rotations and destructions, of all purposes, with what was wrapped at each step."""
    keyring = Keyring.memory("demo")
    wrapped = [keyring.wrap(p, b"first", b"job", tenant_of(p)) for p in WRAPPING]
    for step, purpose, which in steps:
        if step == "rotate":
            algorithm: Any = "mlkem768-x25519" if purpose == "ingress" and which % 2 else None
            keyring = keyring.rotated(purpose, tenant_of(purpose), algorithm)
        elif step == "prepare":
            if keyring.waiting(purpose, tenant_of(purpose)) is None:
                keyring = keyring.prepared(purpose, tenant_of(purpose))
        else:
            old = [e.id for e in keyring.entries if e.purpose == purpose and e.state == "decrypt_only"]
            if old:
                keyring = keyring.destroyed(old[which % len(old)])
        wrapped.append(keyring.wrap(purpose, b"then", b"job", tenant_of(purpose)))
        keyring = Keyring(msgspec.json.decode(msgspec.json.encode(keyring.entries), type=list[KeyEntry]))
    destroyed = {e.id for e in keyring.entries if e.state == "destroyed"}
    for key_id, secret in wrapped:
        assert keyring.has(key_id) == (key_id not in destroyed)
        if key_id in destroyed:
            with pytest.raises(EnvelopeRejected):
                keyring.unwrap(key_id, secret, b"job")
        else:
            assert keyring.unwrap(key_id, secret, b"job") in (b"first", b"then")
