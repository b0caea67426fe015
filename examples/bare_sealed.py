"""A client that seals with nothing of llmos: a Kafka library, `msgpack`, and `cryptography`. docs/envelope.md has the format.

    python examples/bare_sealed.py HOST:PORT .llmos/tenants/demo.json

Sends a sealed, signed request; opens its tokens and its answer, and checks the answer's digest. Reply keys of x25519 only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import struct
import sys
import time
from base64 import b64decode
from pathlib import Path

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")
SECONDS = 120
HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
X25519 = b"\x01"  # a public key begins with its algorithm
MSGPACK = "application/msgpack"


class Credentials:
    """What the file holds: the tenant's name and secret, the system's key, the keys that open answers."""

    def __init__(self, path: Path) -> None:
        file = json.loads(path.read_text())
        self.tenant: str = file["tenant"]
        self.secret = b64decode(file["secret"])
        keys = [key for key in file["system_keys"] if key["purpose"] == "ingress" and key.get("active", True)]
        self.ingress = b64decode(keys[0]["key"])
        self.reply_keys = {}
        for key in file["reply_keys"]:
            if key["algorithm"] == "x25519":
                private = X25519PrivateKey.from_private_bytes(b64decode(key["private"]))
                self.reply_keys[key_id(X25519 + private.public_key().public_bytes_raw())] = private


def key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def derive(secret: bytes, salt: bytes, bound: list) -> tuple[bytes, bytes]:
    """Encryption key and commitment: HKDF-Expand of the secret, for this salt, tenant, job, request, epoch and digest."""
    tenant, _, job, _, _, _, _, _, request_id, epoch, _, extra = bound
    context = msgpack.packb([tenant, job, request_id, epoch, extra])
    block = hmac.digest(secret, b"llmos-envelope-1 keys\0" + salt + context + b"\x01", "sha512")
    return block[:32], block[32:]


def associated(head: bytes, bound: list) -> bytes:
    """What the ciphertext is bound to: its own readers, and the place where it belongs."""
    return msgpack.packb(["llmos-envelope-1", 1, 1, hashlib.sha256(head).digest(), bound])


def seal(public: bytes, bound: list, plaintext: bytes) -> bytes:
    """An envelope for the holder of a public key. A fresh secret each time is simple; llmos' own client keeps one a minute."""
    name = key_id(public)
    secret, salt, nonce = os.urandom(32), os.urandom(32), bytes(12)
    info = b"llmos-secret-1\0" + bound[0].encode()
    wrapped = HPKE.encrypt(secret, X25519PublicKey.from_public_bytes(public[1:]), info=info)
    encryption, commitment = derive(secret, salt, bound)
    head = b"LLE1\x01\x01\x01" + bytes([len(name)]) + name.encode() + struct.pack(">H", len(wrapped)) + wrapped
    return head + salt + commitment + nonce + AESGCM(encryption).encrypt(nonce, plaintext, associated(head, bound))


def unseal(keys: dict[str, X25519PrivateKey], bound: list, envelope: bytes) -> bytes:
    """What is inside. Raises KeyError: no key of it is ours; ValueError, InvalidTag: it is not as it was sealed."""
    if envelope[:6] != b"LLE1\x01\x01":
        raise ValueError("no envelope of version 1, suite 1")
    at, wrapped = 7, {}
    for _ in range(envelope[6]):
        length = envelope[at]
        name, at = envelope[at + 1 : at + 1 + length].decode(), at + 1 + length
        (length,) = struct.unpack_from(">H", envelope, at)
        wrapped[name], at = envelope[at + 2 : at + 2 + length], at + 2 + length
    ours = next((name for name in wrapped if name in keys), None)
    if ours is None:
        raise KeyError(f"it is sealed to key {' or '.join(wrapped)}")
    secret = HPKE.decrypt(wrapped[ours], keys[ours], info=b"llmos-secret-1\0" + bound[0].encode())
    head, salt, said = envelope[:at], envelope[at : at + 32], envelope[at + 32 : at + 64]
    nonce, ciphertext = envelope[at + 64 : at + 76], envelope[at + 76 :]
    encryption, commitment = derive(secret, salt, bound)
    if not hmac.compare_digest(commitment, said):  # before anything is decrypted
        raise ValueError("it commits to another key")
    return AESGCM(encryption).decrypt(nonce, ciphertext, associated(head, bound))


def request_of(credentials: Credentials, lane: str) -> dict:
    """A sealed and signed request."""
    kind, model = "generate", "shakespeare-decoder"
    request_id, nonce, now = os.urandom(16).hex(), os.urandom(16), time.time()
    metadata = [
        credentials.tenant, request_id, None, lane, kind, model, True,  # the None: no idempotency key; True: sealed
        4, None, "tokens", None, b"", now, nonce,  # priority, time-out, events, reply_to, reply_key, submitted_at
    ]  # fmt: skip
    packed = msgpack.packb(["llmos-metadata-2", *metadata])
    job = hashlib.sha256(credentials.tenant.encode() + b"\0" + request_id.encode()).digest()[:16]
    bound = [
        credentials.tenant, "request", job, 0, kind, 0, MSGPACK, "generate-input/1", request_id, 0, 0,
        hashlib.sha256(packed).digest(),
    ]  # fmt: skip
    payload = seal(credentials.ingress, bound, msgpack.packb({"prompt": "ROMEO:\n", "max_tokens": 24}))
    how = msgpack.packb([0, "", None])  # bytes of `input` (there is none), its content type, no checksum
    return {
        "type": "request/1", "request_id": request_id, "tenant": credentials.tenant, "kind": kind, "model": model,
        "payload": payload, "sealed": True, "events": "tokens", "submitted_at": now, "nonce": nonce,
        "mac": hmac.digest(credentials.secret, b"llmos-request-4\0" + how + packed + payload, "sha256"),
    }  # fmt: skip


def text_of(credentials: Credentials, event: dict) -> str:
    """The text of a token event."""
    bound = [
        credentials.tenant, "event", event["job_id"], event.get("part", 0), "", event["sequence"], MSGPACK, "tokens/1",
        event["request_id"], event["epoch"], event.get("output_index", 0), b"",
    ]  # fmt: skip
    text, *_ = msgpack.unpackb(unseal(credentials.reply_keys, bound, event["sealed"]))
    return text


def output_of(credentials: Credentials, answer: dict, item: dict) -> dict:
    """The output of an item, made by a worker and by nobody else: only it and the tenant have the digest's key."""
    part, index = item.get("part", 0), item["output_index"]
    bound = [
        credentials.tenant, "item", answer["job_id"], part, answer["kind"], 0, MSGPACK, f"{answer['kind']}-output/1",
        answer["request_id"], answer["epochs"][part], index, b"",
    ]  # fmt: skip
    output = unseal(credentials.reply_keys, bound, item["output"])
    key = hmac.digest(credentials.secret, b"llmos-output-digest-1\0" + answer["job_id"], "sha256")
    said = ["llmos-item-2", index, len(answer["items"]), output, ""]  # the number of items: none was left out
    digest = hmac.digest(key, msgpack.packb(said), "sha256")
    if not hmac.compare_digest(digest, item["digest"]):
        raise ValueError("the output is none of the system's")
    return msgpack.unpackb(output)


async def main(bootstrap: str, credentials: Credentials) -> None:
    consumer = AIOKafkaConsumer(
        PREFIX + "stream",
        PREFIX + "results",
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    try:
        await consumer.seek_to_end()  # before the request is sent, so that nothing can be missed
        request = request_of(credentials, "standard")
        sent = await producer.send_and_wait(PREFIX + "requests", msgpack.packb(request))
        origin = ["requests", sent.partition, sent.offset]
        async with asyncio.timeout(SECONDS):
            while True:
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    for record in records:
                        message = msgpack.unpackb(record.value)
                        if message["origin"] != origin or message["request_id"] != request["request_id"]:
                            continue
                        if place.topic == PREFIX + "results":
                            show(credentials, message)
                            return
                        if "sealed" in message:
                            print("event:", repr(text_of(credentials, message)))
    finally:
        await producer.stop()
        await consumer.stop()


def show(credentials: Credentials, answer: dict) -> None:
    print("status:", answer["status"])
    if answer["status"] != "completed":
        sys.exit(answer["error"]["message"])
    items = sorted(answer["items"], key=lambda item: item["output_index"])
    if not items or [item["output_index"] for item in items] != list(range(len(items))):
        sys.exit("an output is missing, or there twice")
    for item in items:
        print("text:", repr(output_of(credentials, answer, item)["text"]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Credentials(Path(sys.argv[2]))))
