"""Microseconds per record of each step, beside the cipher, code or signature alone on as many bytes."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console

from benchmarks.harness import Row, median
from benchmarks.seal import steps
from benchmarks.seal.steps import Parties
from llmos.infra.crypto.channels import digest_key, event_bound, item_bound
from llmos.infra.crypto.hpke import Recipient
from llmos.schemas.base import encode
from llmos.schemas.requests import signed_bytes
from llmos.schemas.results import signed_receipt
from llmos.schemas.stream import STREAM

SIZES = (200, 4096, 65536)
"""Bytes of a payload."""
ROUNDS = 7
RECORDS = 400
"""Of each step in a round."""
TEXT = " token"
"""Of a token event."""
_ASSOCIATED = b"a" * 96
_NONCE = b"n" * 12


class Step(NamedTuple):
    """What is measured: each is called once for each of the things that `fresh` made for it."""

    what: str
    fresh: Callable[[int], Sequence[Any]]
    """Makes so many things, before the clock runs."""
    run: Callable[[Any], object]
    bound: str
    """What the bound is."""
    alone: Callable[[], object]
    clear: Callable[[], object] | None = None
    """The same step where nothing is sealed."""
    added: int = 0
    """Bytes by which the record is longer."""


async def run(console: Console, rounds: int = ROUNDS, records: int = RECORDS) -> list[Row]:
    """All figures."""
    rows = []
    for size in SIZES:
        console.print(f"{size} B", style="dim")
        rows += [_measured(step, size, rounds, records) for step in of_payload(Parties.fresh(), size)]
    for step in (*of_event(Parties.fresh()), *of_receipt(Parties.fresh()), *of_wrapping()):
        rows.append(_measured(step, 0, rounds, records))
    return rows


def of_payload(parties: Parties, size: int) -> list[Step]:
    """The steps that a payload passes, in their order."""
    payload, output = steps.input_of(size), steps.output_of(size)
    head = steps.head_of("bench")
    key = digest_key(parties.secret, head.job_id)
    cipher, code = AESGCM(os.urandom(32)), os.urandom(32)
    request = steps.sealed_request(parties, "bench", payload)
    signed = signed_bytes(request, steps.LANE)
    clear = steps.clear_request("bench", payload)
    item = steps.sealed_item(parties, head, key, output)
    part = steps.only_part(steps.seal_part(parties, head, payload))

    def seal_alone() -> object:
        return cipher.encrypt(_NONCE, payload, _ASSOCIATED)

    ciphertext = cipher.encrypt(_NONCE, payload, _ASSOCIATED)

    def open_alone() -> object:
        return cipher.decrypt(_NONCE, ciphertext, _ASSOCIATED)

    def requests(count: int) -> Sequence[Any]:
        return [steps.sealed_request(parties, f"bench-{i}", payload) for i in range(count)]

    def parts(count: int) -> Sequence[Any]:
        heads = [steps.head_of(f"bench-{i}") for i in range(count)]
        return [(own, steps.only_part(steps.seal_part(parties, own, payload))) for own in heads]

    def envelopes(count: int) -> Sequence[Any]:
        bound = item_bound(head, 0, 1, 0)
        return [parties.answering.data_key(bound).seal(bound, output) for _ in range(count)]

    return [
        Step("client: seals and signs a request", range, lambda i: encode(steps.sealed_request(parties, f"{i}", payload)),
             "AES-256-GCM", seal_alone, lambda: steps.clear_request("bench", payload), len(encode(request)) - len(clear)),
        Step("ingest: checks its code", requests, lambda one: steps.check_request(parties, one),
             "HMAC-SHA-256", lambda: hmac.digest(code, signed, "sha256")),
        Step("verify: opens it", requests, lambda one: steps.open_request(parties, one), "AES-256-GCM", open_alone),
        Step("verify: seals a part", range, lambda i: steps.seal_part(parties, head, payload),
             "AES-256-GCM", seal_alone, None, len(part.envelope) - len(payload)),
        Step("worker: opens the part", parts, lambda one: steps.open_work(parties, *one), "AES-256-GCM", open_alone),
        Step("worker: seals the first item of an attempt", range,
             lambda i: steps.sealed_item(parties, head, key, output),
             "AES-256-GCM", seal_alone, lambda: steps.clear_item(output), len(item) - len(steps.clear_item(output))),
        Step("client: opens an item", envelopes, lambda one: steps.open_item(parties, head, one),
             "AES-256-GCM", open_alone),
    ]  # fmt: skip


def of_event(parties: Parties) -> list[Step]:
    """A token event sealed under the key of its attempt, and opened: the key is derived once for all of them."""
    head = steps.head_of("bench")
    bound = event_bound(steps.TENANT, steps.token_event(head, 0))
    data_key = parties.answering.data_key(bound)
    cipher = AESGCM(os.urandom(32))
    ciphertext = cipher.encrypt(_NONCE, TEXT.encode(), _ASSOCIATED)
    clear = encode(steps.token_event(head, 1, TEXT))

    def seal(i: int) -> bytes:
        return steps.sealed_event(data_key, steps.token_event(head, i), TEXT)

    def events(count: int) -> Sequence[Any]:
        return [STREAM.decode(seal(i)) for i in range(count)]

    return [
        Step("worker: seals a token event", range, seal, "AES-256-GCM",
             lambda: cipher.encrypt(_NONCE, TEXT.encode(), _ASSOCIATED),
             lambda: encode(steps.token_event(head, 1, TEXT)), len(seal(1)) - len(clear)),
        Step("client: opens a token event", events, lambda one: steps.open_event(parties, one), "AES-256-GCM",
             lambda: cipher.decrypt(_NONCE, ciphertext, _ASSOCIATED)),
    ]  # fmt: skip


def of_receipt(parties: Parties) -> list[Step]:
    """The receipt of an answer, signed."""
    receipt = steps.receipt_of(steps.head_of("bench"))
    said, signer, sign = signed_receipt(encode(receipt)), Ed25519PrivateKey.generate(), steps.signing(parties)
    return [
        Step("aggregator: signs a receipt", range, lambda i: sign(receipt), "Ed25519",
             lambda: signer.sign(said), lambda: encode(receipt), len(sign(receipt)) - len(encode(receipt))),
    ]  # fmt: skip


def of_wrapping() -> list[Step]:
    """A fresh secret for the holder of a public key: a client and a worker make one a minute, not one a record."""
    cipher = AESGCM(os.urandom(32))
    ciphertext = cipher.encrypt(_NONCE, b"s" * 32, _ASSOCIATED)
    made = []
    for algorithm in get_args(Recipient):
        wrap, unwrap = steps.wrap_secret(algorithm)
        made += [
            Step(f"once a minute: wraps a secret, {algorithm}", range, lambda i, call=wrap: call(),
                 "AES-256-GCM", lambda: cipher.encrypt(_NONCE, b"s" * 32, _ASSOCIATED),
                 None, steps.wrapped_bytes(algorithm)),
            Step(f"once a minute: unwraps it, {algorithm}", range, lambda i, call=unwrap: call(),
                 "AES-256-GCM", lambda: cipher.decrypt(_NONCE, ciphertext, _ASSOCIATED)),
        ]  # fmt: skip
    return made


def _measured(step: Step, size: int, rounds: int, records: int) -> Row:
    """Median over the rounds of the mean of a round, after one that is not counted; the three are measured in turns."""
    count = records if size < SIZES[-1] else max(records // 4, 1)
    times: dict[str, list[float]] = {"with": [], "alone": [], "clear": []}
    for round_ in range(rounds + 1):
        things = step.fresh(count)
        took = {
            "with": _seconds(step.run, things),
            "alone": _seconds(lambda _: step.alone(), range(count)),
            "clear": _seconds(lambda _: step.clear(), range(count)) if step.clear is not None else 0.0,  # type: ignore[misc]
        }
        if round_ > 0:
            for name, seconds in took.items():
                times[name].append(seconds / count * 1e6)
    middle = {name: median(values) for name, values in times.items()}
    note = f"in the clear {middle['clear']:,.3g} µs" if step.clear is not None else ""
    if step.added:
        note += f"{', ' if note else ''}{step.added:,} B longer"
    what = f"{step.what}, {size:,} B" if size else step.what
    return Row(what, middle["with"], "µs", f"{step.bound} alone", middle["alone"], "", note)


def _seconds(call: Callable[[Any], object], things: Sequence[Any]) -> float:
    began = time.perf_counter()
    for thing in things:
        call(thing)
    return time.perf_counter() - began
