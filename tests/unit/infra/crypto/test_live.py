"""A service's live keys: rotated and destroyed while it runs, with nothing lost before and nothing opened after."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from llmos.infra.crypto import envelope, live
from llmos.infra.crypto.envelope import Bound, Secret, open_envelope
from llmos.infra.crypto.keyfile import changed, create_keyring, export_keyring, load_keyring, save_keyring
from llmos.infra.crypto.keyring import PURPOSES, Keyring, SystemKeys
from llmos.infra.crypto.live import LiveKeyring
from llmos.infra.crypto.roles import ROLES, for_service
from llmos.infra.telemetry.metrics import KEYRINGS_REFUSED
from llmos.schemas.errors import BadSetting, EnvelopeRejected

BOUND = Bound("demo", "part", bytes(16), 0, "echo")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A keyring with a tenant's key."""
    create_keyring(tmp_path / "keyring.json", ["demo"])
    return tmp_path / "keyring.json"


def test_a_service_gets_its_part_of_the_file(path: Path) -> None:
    """And is told what is wrong with it at its start."""
    keys: SystemKeys = LiveKeyring(path, "worker")
    assert isinstance(keys, LiveKeyring)
    assert keys.current.entries == for_service(load_keyring(path), "worker").entries
    assert len({keys, LiveKeyring(path, "worker")}) == 2
    with pytest.raises(BadSetting, match="there is no keyring"):
        LiveKeyring(path.with_name("none.json"), "worker")


def test_a_job_sealed_under_a_key_made_just_now_opens_at_once(path: Path) -> None:
    """Verify rotates to it first; the worker has not looked since: it does when it meets the key."""
    worker, verify = LiveKeyring(path, "worker"), LiveKeyring(path, "verify")
    old = Secret.under(verify, ("tenant", "pool"), "demo").data_key(BOUND).seal(BOUND, b"before")
    changed(path, lambda keyring: keyring.rotated("pool").rotated("tenant", "demo"))
    assert verify.refresh()
    new = Secret.under(verify, ("tenant", "pool"), "demo").data_key(BOUND).seal(BOUND, b"after")
    assert envelope.parse(old).wrapped[1][0] != envelope.parse(new).wrapped[1][0]
    assert open_envelope(worker, BOUND, new) == b"after"
    assert open_envelope(worker, BOUND, old) == b"before"
    assert not worker.refresh()


def test_rotations_under_load_fail_no_job(path: Path) -> None:
    """One thread rotates all the time, another seals and opens: everything opens, whoever looked last."""
    worker, verify = LiveKeyring(path, "worker"), LiveKeyring(path, "verify")
    over = threading.Event()

    def rotate() -> None:
        for _ in range(40):
            changed(path, lambda keyring: keyring.rotated("pool"))
            verify.refresh()
        over.set()

    rotator = threading.Thread(target=rotate)
    rotator.start()
    opened = 0
    while not over.is_set():
        sealed = Secret.under(verify, ("tenant", "pool"), "demo").data_key(BOUND).seal(BOUND, b"payload")
        opened += open_envelope(worker, BOUND, sealed) == b"payload"
    rotator.join(30)
    assert opened
    assert len([e for e in worker.current.entries if e.purpose == "pool"]) > 1


def test_a_destroyed_key_opens_nothing_although_it_was_in_use(path: Path) -> None:
    """From the look on; and neither its bytes nor what it unwrapped are remembered anywhere in the process."""
    worker, verify = LiveKeyring(path, "worker"), LiveKeyring(path, "verify")
    pool = worker.current.active("pool").id
    sealed = Secret.under(verify, ("pool",), "demo").data_key(BOUND).seal(BOUND, b"payload")
    assert open_envelope(worker, BOUND, sealed) == b"payload"
    secret = verify.unwrap(pool, envelope.parse(sealed).wrapped[0][1], envelope.wrap_context("demo"))
    changed(path, lambda keyring: keyring.rotated("pool"))
    changed(path, lambda keyring: keyring.destroyed(pool))
    assert worker.refresh()
    assert not worker.has(pool)
    with pytest.raises(EnvelopeRejected):
        open_envelope(worker, BOUND, sealed)
    assert envelope._unwrapped.cache_info().currsize == envelope._opened.cache_info().currsize == 0
    gc.collect()
    assert not [e for e in gc.get_objects() if type(e) is Keyring and e.has(pool) and e is not verify.current]
    assert len(secret) == 32


def test_a_private_key_is_in_no_cache(path: Path) -> None:
    """What opened a request is held by the keyring alone."""
    verify = LiveKeyring(path, "verify")
    key_id, wrapped = verify.wrap("ingress", bytes(32), b"context")
    assert verify.unwrap(key_id, wrapped, b"context") == bytes(32)
    caches = [value for module in (live.envelope, envelope.hpke) for value in vars(module).values()]
    names = {cache.__name__ for cache in caches if hasattr(cache, "cache_info")}
    assert names == {"_unwrapped", "_opened", "_readers", "_public", "check_public"}


def test_what_is_missing_is_looked_for_once_per_question(path: Path) -> None:
    """A tenant's first key, a rotated key of the scheduler's, a receipt key: each is found without a look in between."""
    verify, node, scheduler = LiveKeyring(path, "verify"), LiveKeyring(path, "node"), LiveKeyring(path, "scheduler")
    assert not verify.holds("tenant", "acme")
    create_keyring(path, ["acme"])
    assert verify.holds("tenant", "acme")
    changed(path, lambda keyring: keyring.completed(["globex"]))
    assert verify.wrap("tenant", b"secret", b"context", "globex")
    changed(path, lambda keyring: keyring.rotated("control"))
    scheduler.refresh()
    _, signature = scheduler.sign("control", b"order")
    assert node.check_signed("control", b"order", signature)
    assert not node.check_signed("control", b"order", bytes(64))
    assert verify.active_id("tenant", "initech") == ""
    create_keyring(path, ["initech"])
    assert verify.active_id("tenant", "initech") == load_keyring(path).active("tenant", "initech").id
    aggregator = LiveKeyring(path, "aggregator")
    assert aggregator.sign("receipt", b"receipt")[0] == load_keyring(path).active("receipt").id


def test_a_file_that_cannot_be_used_leaves_the_keys_of_before(path: Path) -> None:
    """Damage, a mode that lets others read, a file without this service's keys, none at all: each is logged once."""
    worker = LiveKeyring(path, "worker")
    key_id, wrapped = worker.wrap("pool", b"secret", b"job")
    good = path.read_bytes()

    def damage() -> None:
        path.write_bytes(good[: len(good) // 2])

    def expose() -> None:
        path.write_bytes(good)
        path.chmod(0o644)

    def another_s() -> None:
        path.unlink()
        path.touch(0o600)
        path.write_text('{"version": 1, "keys": []}')

    for spoil in (damage, expose, another_s, path.unlink):
        spoil()
        with capture_logs() as logs:
            for _ in range(3):
                assert not worker.refresh()
                assert not worker.has("00")
        assert [entry["event"] for entry in logs] == ["keyring_unusable"], spoil
        assert worker.unwrap(key_id, wrapped, b"job") == b"secret"
    path.touch(0o600)
    path.write_bytes(good)
    with capture_logs() as logs:
        assert worker.refresh()
    assert [(entry["event"], entry["made"], entry["gone"]) for entry in logs] == [("keyring_reloaded", [], [])]


@pytest.mark.parametrize("service", ROLES)
def test_another_systems_keyring_is_not_taken(path: Path, service: str) -> None:
    """As by `llmos keys init` beside a running system: its services keep their keys, say so once, and count it."""
    keys = LiveKeyring(path, service)
    before, good = keys.current, path.read_bytes()
    counted = KEYRINGS_REFUSED.labels("another")._value.get()
    save_keyring(Keyring.memory("demo"), path)
    with capture_logs() as logs:
        assert [keys.refresh() for _ in range(3)] == [False] * 3
    assert [entry["event"] for entry in logs] == ["keyring_refused"]
    assert logs[0]["lacks"]
    assert keys.current is before
    assert KEYRINGS_REFUSED.labels("another")._value.get() == counted + 1
    path.write_bytes(good)
    assert keys.refresh()


@pytest.mark.parametrize("service", ROLES)
def test_a_copy_is_taken_after_rotations_and_destructions(tmp_path: Path, service: str) -> None:
    """It keeps no entry of what its service only checks or seals to; the whole keyring keeps all."""
    ring, out = create_keyring(tmp_path / "keyring.json", ["demo"]), tmp_path / "copy.json"
    export_keyring(ring, service, out)
    copy, whole = LiveKeyring(out, service), LiveKeyring(tmp_path / "keyring.json", service)
    for purpose in PURPOSES:
        tenant = "demo" if purpose == "tenant" else ""
        old = ring.active(purpose, tenant).id
        ring = ring.rotated(purpose, tenant).destroyed(old)
    save_keyring(ring, tmp_path / "keyring.json")
    out.unlink()
    export_keyring(ring, service, out)
    assert copy.refresh()
    assert whole.refresh()


def test_a_reload_logs_ids_and_no_keys(path: Path) -> None:
    """Which came and which went."""
    worker = LiveKeyring(path, "worker")
    old = worker.current.active("pool")
    changed(path, lambda keyring: keyring.rotated("pool").destroyed(old.id))
    with capture_logs() as logs:
        worker.refresh()
    new = worker.current.active("pool")
    assert [(entry["made"], entry["gone"]) for entry in logs] == [([new.id], [old.id])]
    assert old.key.hex() not in str(logs) + repr(worker)
