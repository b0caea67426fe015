"""Requests as they are sealed."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import msgspec
import pytest

from llmos.client import sealing as module
from llmos.client.building import Built, Task, build
from llmos.client.sealing import Sealing
from llmos.infra.crypto.channels import request_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import Credentials, PublicKey
from llmos.infra.crypto.envelope import open_envelope, parse
from llmos.infra.crypto.hpke import check_public
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac
from llmos.schemas.errors import BadSetting, EnvelopeRejected, TooLarge
from llmos.schemas.limits import PAYLOAD_BYTES
from llmos.schemas.requests import REQUESTS, Request, signed_bytes
from tests.kit.sealing_worker import SECRET, credentials_of

NOW = 1000.0


@pytest.fixture(scope="module")
def keys() -> Keyring:
    """The system's."""
    return Keyring.memory()


@pytest.fixture
def credentials(keys: Keyring) -> Credentials:
    """A tenant's."""
    return credentials_of(keys)


def make(sealing: Sealing, task: Task | None = None, now: float = NOW) -> Built:
    task = task or Task("echo", {"text": "hello"})
    return build(task, tenant="demo", secret=SECRET, request_id="r", now=now, sealing=sealing)


def wrapped(built: Built) -> bytes:
    """The wrapped secret in a request's envelope."""
    return parse(built.request.payload).wrapped[0][1]


def test_the_system_opens_what_a_client_seals(keys: Keyring, credentials: Credentials) -> None:
    """The envelope holds the input and is bound to the request as it is on the wire; checksum and code cover the envelope."""
    built = make(Sealing(credentials), Task("echo", {"text": "hello"}, lane="batch", priority=7, timeout=5))
    request: Request = REQUESTS.decode(built.value)
    assert request.sealed
    assert b"hello" not in built.value
    assert request.crc32c == crc32c(request.payload)
    assert len(request.nonce) == 16
    assert check_mac(SECRET, signed_bytes(request, "batch"), request.mac)
    opened = open_envelope(keys, request_bound(request, "batch"), request.payload)
    assert msgpack.unpackb(opened) == {"text": "hello"}


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 9}, {"model": "other"}, {"timeout": 1.0}, {"reply_key": b"x"}, {"reply_to": "reply.x"},
        {"submitted_at": 1.0}, {"nonce": b"n" * 16}, {"events": "none"}, {"kind": "generate"}, {"tenant": "acme"},
        {"request_id": "other"}, {"idempotency_key": "k"},
    ],
)  # fmt: skip
def test_metadata_that_was_changed_does_not_open(
    keys: Keyring, credentials: Credentials, change: dict[str, Any]
) -> None:
    """All that steers the work is bound, also for who signs nothing."""
    request = make(Sealing(credentials)).request
    other = msgspec.structs.replace(request, **change)
    with pytest.raises(EnvelopeRejected):
        open_envelope(keys, request_bound(other, "standard"), request.payload)
    with pytest.raises(EnvelopeRejected):
        open_envelope(keys, request_bound(request, "interactive"), request.payload)


def test_one_secret_serves_a_minute_and_every_request_has_its_own_salt(credentials: Credentials) -> None:
    """Requests of a minute share the wrapped secret; after it, or where the clock went back, there is a fresh one."""
    sealing = Sealing(credentials)
    first, second = make(sealing), make(sealing, now=NOW + 59.0)
    assert wrapped(first) == wrapped(second)
    assert parse(first.request.payload).salt != parse(second.request.payload).salt
    later = make(sealing, now=NOW + 60.0)
    back = make(sealing, now=NOW)
    assert len({wrapped(first), wrapped(later), wrapped(back)}) == 3


def test_a_secret_serves_so_many_requests(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound by number, too."""
    monkeypatch.setattr(module, "RENEW_REQUESTS", 2)
    sealing = Sealing(credentials)
    assert len({wrapped(make(sealing)) for _ in range(5)}) == 3


async def test_a_secret_that_is_not_used_again_is_let_go_of(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client in an event loop forgets it when its time is over, whether it asks again or not."""
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    sealing = Sealing(credentials)
    make(sealing)
    assert len(sealing._secrets) == 1
    async with asyncio.timeout(10):
        while len(sealing._secrets):  # noqa: ASYNC110  the loop's own next turn
            await asyncio.sleep(0)


def test_a_forked_process_makes_its_own_secret(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child must not go on with one."""
    sealing = Sealing(credentials)
    before = wrapped(make(sealing))
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert wrapped(make(sealing)) != before


def test_a_request_can_go_in_the_clear_on_purpose(credentials: Credentials) -> None:
    """It is signed all the same, and asks for no sealed answer."""
    request = make(Sealing(credentials), Task("echo", {"text": "hello"}, clear=True)).request
    assert not request.sealed
    assert msgpack.unpackb(request.payload) == {"text": "hello"}
    assert check_mac(SECRET, signed_bytes(request, "standard"), request.mac)
    assert request.reply_key == b""


@pytest.mark.parametrize(("hybrid", "algorithm"), [(False, "x25519"), (True, "mlkem768-x25519")])
def test_an_ephemeral_key_is_made_for_each_request(credentials: Credentials, hybrid: bool, algorithm: str) -> None:
    """Its public half travels, covered by the code; its private half stays."""
    sealing = Sealing(credentials)
    task = Task("echo", {"text": "hello"}, reply="ephemeral", hybrid=hybrid)
    one, two = make(sealing, task), make(sealing, task)
    assert check_public(one.request.reply_key) == algorithm
    assert one.request.reply_key != two.request.reply_key
    assert one.reply_key is not None
    assert one.reply_key.public == one.request.reply_key
    assert one.reply_key.private not in one.value


def test_what_credentials_lack_is_told(keys: Keyring) -> None:
    """No key of the system, one that is none, no key for the answer: each with its remedy."""
    bad = PublicKey(id="x", purpose="ingress", key=b"\x01" + bytes(32))
    for lacking, said in (
        (credentials_of(keys, system_keys=[]), "keys export"),
        (credentials_of(keys, system_keys=[bad]), "key of the system"),
        (credentials_of(keys, reply_keys=[]), "ephemeral"),
    ):
        with pytest.raises(BadSetting, match=said):
            make(Sealing(lacking))
    make(Sealing(credentials_of(keys, reply_keys=[])), Task("echo", {"text": "x"}, reply="ephemeral"))


def test_the_envelope_must_fit_as_well(credentials: Credentials) -> None:
    """What just fits in the clear is told to be too large once it is sealed."""
    task = Task("echo", {"text": "x" * (PAYLOAD_BYTES - 64)})
    make(Sealing(credentials), task._replace(clear=True))
    with pytest.raises(TooLarge, match="sealed"):
        make(Sealing(credentials), task)
