"""`echo` through a whole system, everything on beside everything off, by the same tenant on the same stack, in turns."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.harness import Row, median, percentile
from benchmarks.pipeline.probe import TEXT, Probe, Target
from llmos.cli.up import up
from llmos.infra.crypto.channels import item_bound, request_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import Credentials, ReplyKeys, load_credentials
from llmos.infra.crypto.envelope import Secret, open_envelope
from llmos.infra.crypto.macs import mac
from llmos.infra.settings import Settings, load
from llmos.schemas.base import encode
from llmos.schemas.job import Lane
from llmos.schemas.requests import Request, signed_bytes
from llmos.schemas.results import RESULTS, Answer
from llmos.schemas.tasks import EchoInput, EchoOutput

TENANT = "demo"
ROUNDS = 5
RATES = ((20.0, 6.0), (200.0, 4.0))
"""Jobs per second, and for how many seconds."""
SATURATION_SECONDS = 5.0
IN_FLIGHT = 2000
SECRET_SECONDS = 60.0
"""For so long one secret serves, as in the client of llmos."""
ON, OFF = "everything on", "everything off"
LANE: Lane = "standard"
_INPUT = msgspec.msgpack.encode(EchoInput(text=TEXT))


async def run(console: Console) -> list[Row]:
    """All figures; takes about two and a half minutes."""
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as directory:
        settings = load(state_directory=Path(directory) / "state")
        stop = asyncio.Event()
        rows: list[Row] = []

        async def measure(ready: Settings) -> None:
            try:
                rows.extend(await _measure(ready, console))
            finally:
                stop.set()

        await up(settings, stop=stop, on_ready=measure, report=lambda line: None)
        return rows


class Sealed:
    """An asker with credentials: seals and signs each request, and opens each answer."""

    def __init__(self, credentials: Credentials) -> None:
        ingress = credentials.ingress
        if ingress is None or not credentials.secret or not credentials.reply_keys:
            raise ValueError("these credentials do not seal")
        self._tenant = credentials.tenant
        self._secret = credentials.secret
        self._public = ingress.key
        self._reader = ReplyKeys(credentials.reply_keys)
        self._asking = Secret.for_public(self._public, self._tenant)
        self._until = time.monotonic() + SECRET_SECONDS

    def request(self, name: str) -> bytes:
        """An echo job, sealed and signed."""
        if time.monotonic() > self._until:
            self._asking = Secret.for_public(self._public, self._tenant)
            self._until = time.monotonic() + SECRET_SECONDS
        bare = Request(
            request_id=name,
            tenant=self._tenant,
            kind="echo",
            sealed=True,
            events="none",
            submitted_at=time.time(),
            nonce=os.urandom(16),
        )
        bound = request_bound(bare, LANE)
        envelope = self._asking.data_key(bound).seal(bound, _INPUT)
        request = msgspec.structs.replace(bare, payload=envelope, crc32c=crc32c(envelope))
        return encode(msgspec.structs.replace(request, mac=mac(self._secret, signed_bytes(request, LANE))))

    def id_of(self, value: bytes) -> str:
        """Whose answer it is. Raises RuntimeError: it is not sealed, or not the text that was asked for."""
        answer = _completed(value)
        for item in answer.items:
            if not item.sealed:
                raise RuntimeError("an answer came in the clear")
            bound = item_bound(answer, item.part, answer.epochs[item.part], item.output_index)
            _check(open_envelope(self._reader, bound, item.output))
        return answer.request_id


def clear_request(name: str) -> bytes:
    """An echo job in the clear, without a code."""
    return encode(
        Request(
            request_id=name,
            tenant=TENANT,
            kind="echo",
            payload=_INPUT,
            events="none",
            crc32c=crc32c(_INPUT),
            submitted_at=time.time(),
        )
    )


def clear_id_of(value: bytes) -> str:
    """Whose answer it is. Raises RuntimeError: it is sealed, or not the text that was asked for."""
    answer = _completed(value)
    for item in answer.items:
        if item.sealed:
            raise RuntimeError("an answer came sealed")
        _check(item.output)
    return answer.request_id


def targets(credentials: Credentials, partitions: int) -> list[Target]:
    """Everything on, and everything off."""
    sealed = Sealed(credentials)
    return [
        Target(ON, "requests", "results", partitions, sealed.request, sealed.id_of),
        Target(OFF, "requests", "results", partitions, clear_request, clear_id_of),
    ]


def _completed(value: bytes) -> Answer:
    answer: Answer = RESULTS.decode(value)
    if answer.status != "completed":
        raise RuntimeError(f"a job was not completed: {answer.error}")
    return answer


def _check(output: bytes) -> None:
    if msgspec.msgpack.decode(output, type=EchoOutput).text != TEXT:
        raise RuntimeError("a job came back with another text")


async def _measure(settings: Settings, console: Console) -> list[Row]:
    file = settings.state_directory / "tenants" / f"{TENANT}.json"
    credentials = await asyncio.to_thread(load_credentials, file)
    figures: dict[tuple[str, str], list[float]] = {}
    for target in targets(credentials, settings.kafka.partitions):
        await _warm(settings, target)
    for round_ in range(ROUNDS):
        pair = targets(credentials, settings.kafka.partitions)
        for target in pair if round_ % 2 == 0 else reversed(pair):
            console.print(f"round {round_ + 1} of {ROUNDS}: {target.name}", style="dim")
            await _one_run(settings, target, figures)
    return rows_of(figures)


async def _warm(settings: Settings, target: Target) -> None:
    probe = Probe(settings.kafka.bootstrap, target)
    await probe.start()
    try:
        await probe.saturate(IN_FLIGHT, 2.0)
        await probe.paced(200.0, 1.0)
    finally:
        await probe.stop()


async def _one_run(settings: Settings, target: Target, figures: dict[tuple[str, str], list[float]]) -> None:
    """One asker at a time: both read the topic `results`, and neither is to pay for reading the other's answers."""

    def note(what: str, value: float) -> None:
        figures.setdefault((target.name, what), []).append(value)

    probe = Probe(settings.kafka.bootstrap, target)
    await probe.start()
    try:
        for rate, seconds in RATES:
            latencies = await probe.paced(rate, seconds)
            note(f"p50 at {rate:g}/s", percentile(latencies, 0.50))
            note(f"p99 at {rate:g}/s", percentile(latencies, 0.99))
        note("highest rate", await probe.saturate(IN_FLIGHT, SATURATION_SECONDS))
    finally:
        await probe.stop()


def rows_of(figures: dict[tuple[str, str], list[float]]) -> list[Row]:
    """Medians over the rounds, on beside off."""
    rows = []
    for rate, _ in RATES:
        for share, target in (("p50", "<= 1.15"), ("p99", "")):
            what = f"{share} at {rate:g}/s"
            on, off = (median(figures[name, what]) for name in (ON, OFF))
            spread = _spread(figures[OFF, what])
            note = f"{OFF} lay within ±{spread:.0%} over the rounds"
            rows.append(Row(f"echo sealed, {what}", on * 1000, "ms", OFF, off * 1000, target, note))
    on, off = (median(figures[name, "highest rate"]) for name in (ON, OFF))
    note = f"{OFF} lay within ±{_spread(figures[OFF, 'highest rate']):.0%} over the rounds"
    rows.append(Row(f"echo sealed, highest rate, {IN_FLIGHT} in flight", on, "jobs/s", OFF, off, ">= 0.9", note))
    return rows


def _spread(values: list[float]) -> float:
    """Half the range over the median: what of a ratio may be chance."""
    return (max(values) - min(values)) / 2 / median(values)
