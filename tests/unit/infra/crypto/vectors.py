"""Makes docs/vectors/envelope-v1.json: `python -m tests.unit.infra.crypto.vectors`. Published once, never changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmos.infra.crypto import channels
from llmos.infra.crypto.blobs import seal_blob
from llmos.infra.crypto.envelope import Bound, Secret
from llmos.infra.crypto.keyring import Keyring, Purpose
from llmos.infra.crypto.macs import mac
from llmos.schemas.base import encode
from llmos.schemas.control import Cancel, signed_control
from llmos.schemas.job import Head, Origin
from llmos.schemas.requests import Request, metadata_bytes, signed_bytes
from llmos.schemas.results import Receipt, signed_receipt

VECTORS = Path(__file__).parents[4] / "docs" / "vectors" / "envelope-v1.json"

_JOB = bytes(range(16))
_SECRET = bytes(range(32))
_REQUEST = Request(
    request_id="r-1",
    tenant="demo",
    kind="echo",
    sealed=True,
    priority=7,
    timeout=30.5,
    reply_to="reply.demo.a",
    crc32c=0x12345678,
    submitted_at=1_800_000_000.25,
    nonce=bytes(range(16)),
)
_HEAD = Head(
    job_id=_JOB,
    tenant="demo",
    request_id="r-1",
    origin=Origin("requests.interactive", 3, 17),
    lane="interactive",
    kind="echo",
    model="",
    parts=2,
    items=5,
    reply_key=b"\x01" + bytes(range(32)),
)
_Readers = Sequence[Purpose]
_CASES: tuple[tuple[str, Bound, _Readers, bytes], ...] = (
    (
        "a part: two readers, its items 2 to 4 of 5; extra is the digest of reply key, model and counts",
        channels.part_bound(_HEAD, 1, 2, 3),
        ("tenant", "pool"),
        channels.encode_body(channels.PartBody(b"\x81\xa4text\xa5hello", bytes(32))),
    ),
    ("one reader, nothing inside", Bound("demo", "part", bytes(16), 1023, "embed", 1023), ("pool",), b""),
    ("a request: extra is the digest of its metadata", channels.request_bound(_REQUEST, "interactive"), ("ingress",), b"\x81\xa4text\xa5hello"),
    (
        "an item of an attempt",
        Bound("demo", "item", _JOB, 3, "generate", 0, "application/msgpack", "generate-output/1", "r-1", 327682, 41),
        ("ingress",),
        b"\x81\xa4text\xa2to",
    ),
    (
        "a token event",
        Bound("demo", "event", b"\xff" * 16, 3, "", 2**40, "application/msgpack", "tokens/1", "r-1", 2**48 + 2, 1),
        ("ingress",),
        channels.encode_body(channels.EventBody("ünïcödé", 12, 2, "stop", 10)),
    ),
    ("long names", Bound("t" * 64, "part", bytes(range(1, 17)), 7, "k" * 128, 300, "application/json", "2", "r" * 128), ("pool",), bytes(range(256)) * 4),
)  # fmt: skip


def make() -> dict[str, Any]:
    """Envelopes and signatures under fresh keys, with everything that is needed to check them."""
    keyring = Keyring.memory("demo")
    cases = [_case(keyring, *case) for case in _CASES]
    hybrid = keyring.rotated("ingress", algorithm="mlkem768-x25519")
    cases.append(_case(hybrid, "a hybrid reader", _CASES[3][1], ("ingress",), b"\x81\xa4text\xa2be"))
    used = {key_id for case in cases for key_id in case["readers"]}
    blob_id, blob = seal_blob(keyring, b"requests:3:17", b"a record")
    used.add(blob_id)
    return {
        "about": "llmos envelope v1; bytes are hex; all keys are for these vectors only; docs/envelope.md explains",
        "keys": {e.id: {"algorithm": e.algorithm, "key": e.key.hex()} for e in hybrid.entries if e.id in used},
        "cases": cases,
        "blob": {"key": blob_id, "context": b"requests:3:17".hex(), "sealed": blob.hex(), "plaintext": b"a record".hex()},
        "digests": _digests(),
        "request": {
            "fields": _shown(_REQUEST),
            "lane": "interactive",
            "body": b"sealed".hex(),
            "metadata": metadata_bytes(_REQUEST, "interactive").hex(),
            "signed": signed_bytes(msgspec.structs.replace(_REQUEST, payload=b"sealed"), "interactive").hex(),
            "secret": _SECRET.hex(),
            "mac": mac(_SECRET, signed_bytes(msgspec.structs.replace(_REQUEST, payload=b"sealed"), "interactive")).hex(),
        },
        "control": _control(),
        "receipt": _receipt(keyring),
    }  # fmt: skip


def _case(keyring: Keyring, name: str, bound: Bound, readers: _Readers, plaintext: bytes) -> dict[str, Any]:
    secret = Secret.under(keyring, readers, bound.tenant)
    key = secret.data_key(bound)
    key.seal(bound, b"so that the nonce of the published one is not 0")
    envelope = key.seal(bound, plaintext).hex()
    fields = msgspec.structs.asdict(bound) | {"job_id": bound.job_id.hex(), "extra": bound.extra.hex()}
    return {
        "name": name,
        "readers": list(secret.key_ids),
        "bound": fields,
        "plaintext": plaintext.hex(),
        "envelope": envelope,
    }


def _digests() -> dict[str, Any]:
    key = channels.digest_key(_SECRET, _JOB)
    items = [(0, b"\x81\xa4text\xa5hello", ""), (1, b"", "too_large")]
    digests = [channels.item_digest(key, index, len(items), output, code) for index, output, code in items]
    return {
        "secret": _SECRET.hex(),
        "job_id": _JOB.hex(),
        "digest_key": key.hex(),
        "items": [
            {"index": index, "output": output.hex(), "code": code, "digest": digest.hex()}
            for (index, output, code), digest in zip(items, digests, strict=True)
        ],
        "output_digest": channels.output_digest(digests).hex(),
    }


def _control() -> dict[str, Any]:
    cancel = Cancel(tenant="demo", job_id=_JOB, at=1_800_000_000.25)
    signed = signed_control(cancel)
    return {
        "fields": _shown(cancel),
        "signed": signed.hex(),
        "secret": _SECRET.hex(),
        "mac": mac(_SECRET, signed).hex(),
    }


def _receipt(keyring: Keyring) -> dict[str, Any]:
    entry = keyring.active("receipt")
    receipt = Receipt(
        job_id=_JOB,
        tenant="demo",
        partition=3,
        s=17,
        status="completed",
        kind="echo",
        origin=Origin("requests", 3, 2**33),
        output_digest=bytes(range(32)),
        attempts=1,
        part_count=1,
        item_count=2,
        signing_key=entry.id,
    )
    _, signature = keyring.sign("receipt", signed_receipt(encode(receipt)))
    record = encode(msgspec.structs.replace(receipt, signature=signature))
    return {"public_key": entry.public.hex(), "signed": signed_receipt(record).hex(), "record": record.hex()}


def _shown(message: Any) -> dict[str, Any]:
    values = msgspec.structs.asdict(message)
    return {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in values.items()
        if not isinstance(value, msgspec.Raw)
    }


if __name__ == "__main__":
    if VECTORS.exists():
        raise SystemExit(f"{VECTORS} is published; a new format gets a new file")
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
