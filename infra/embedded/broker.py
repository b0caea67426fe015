"""The embedded Kafka broker: one KRaft node on the loopback address, its data under the state directory.

`prepare` formats the data once, writes the broker's properties and gives what to run; the same directory gives the same
cluster and, as long as they are free, the same ports. One broker keeps what it acknowledged over its own crash, not over
a power cut.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from llmos.infra.embedded.child import ChildSpec
from llmos.infra.embedded.directory import StateDirectory, read_json, write_json
from llmos.infra.embedded.jars import class_path
from llmos.infra.embedded.java import find_java
from llmos.infra.embedded.ports import LOOPBACK, free_port, is_free
from llmos.infra.settings import Settings
from llmos.schemas.errors import ChildFailed
from llmos.schemas.limits import RECORD_BYTES

NAME = "kafka"

_HEADROOM_BYTES = 64 * 1024
"""A batch's own head, beside the largest record."""
_TEN_YEARS_MINUTES = 10 * 366 * 24 * 60
_FORMAT_SECONDS = 60.0
_JVM = (
    # One small heap, one collector thread, the quick compiler only: it starts in 2 s and costs an idle machine nothing.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients=warn",
)
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Length, key 18, version 0, correlation id 1, no client id: what any Kafka client asks first."""


def prepare(directory: StateDirectory, all_settings: Settings) -> tuple[ChildSpec, int]:
    """Makes everything ready to run; gives what to run and the port it listens on. Blocks, for seconds when first used.

    Raises:
        ChecksumMismatch: a jar is not the recorded one.
        MissingTool: no Java, or no jars.
        ChildFailed: the data directory could not be formatted.
    """
    settings = all_settings.embedded
    transaction_ms = round(all_settings.kafka.request_seconds * 2000)
    java = find_java(settings.java)
    jars = ":".join(map(str, class_path(settings.jars_directory)))
    ports = _ports(directory.kafka)
    properties = directory.kafka / "server.properties"
    properties.write_text(
        "".join(f"{key}={value}\n" for key, value in server_properties(directory.kafka, ports, transaction_ms).items())
    )
    command = (str(java), f"-Xmx{settings.kafka_heap}", *_JVM, "-cp", jars)
    if not (directory.kafka / "data" / "meta.properties").exists():
        _format(command, properties)
    port = ports["broker"]
    spec = ChildSpec(
        name=NAME,
        command=(*command, "kafka.Kafka", str(properties)),
        log=directory.log_file(NAME),
        ready=lambda _: answers(port),
        ready_seconds=settings.ready_seconds,
    )
    return spec, port


def server_properties(directory: Path, ports: Mapping[str, int], transaction_ms: int) -> dict[str, str | int]:
    """The broker's properties; those that differ from Kafka's defaults say why."""
    broker, controller = f"PLAINTEXT://{LOOPBACK}:{ports['broker']}", f"CONTROLLER://{LOOPBACK}:{ports['controller']}"
    largest = RECORD_BYTES + _HEADROOM_BYTES
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        # A fixed list of voters, not a dynamic one: the controller's port may change from start to start.
        "controller.quorum.voters": f"1@{LOOPBACK}:{ports['controller']}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"{broker},{controller}",
        "advertised.listeners": broker,
        "log.dirs": str(directory / "data"),
        # Topics come from our table or not at all.
        "auto.create.topics.enable": "false",
        "message.max.bytes": largest,
        "replica.fetch.max.bytes": largest,
        # Internal topics: few partitions and one copy, made in a moment.
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        # A stranger's open transaction on `results` or `usage` holds readers back no longer than one of ours may last.
        "transaction.max.timeout.ms": transaction_ms,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # Committed offsets carry the origin maps; the default forgets them after a week, their readers alive or not.
        "offsets.retention.minutes": _TEN_YEARS_MINUTES,
        "group.initial.rebalance.delay.ms": 0,
        # The cleaner's default buffer is a quarter of our heap; this one holds a million keys.
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
        # After a crash the controller takes the dead broker for alive this long, and refuses its successor.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
    }


async def answers(port: int) -> bool:
    """Does the broker answer what every client asks first? The port opens only when it takes work."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(_API_VERSIONS)
        await writer.drain()
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        correlation, error = struct.unpack(">ih", (await reader.readexactly(length))[:6])
        return bool(correlation == 1 and error == 0)
    finally:
        writer.close()


def _ports(directory: Path) -> dict[str, int]:
    """The ports of last time where they are free, written down for the next."""
    before = read_json(directory / "ports.json") or {}
    ports: dict[str, int] = {}
    for name in ("broker", "controller"):
        last = before.get(name)
        if not (isinstance(last, int) and last not in ports.values() and is_free(last)):
            last = free_port(frozenset(ports.values()))
        ports[name] = last
    write_json(directory / "ports.json", ports)
    return ports


def _format(command: tuple[str, ...], properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    if cluster.startswith("-"):  # the tool would take it for an option
        cluster = "A" + cluster[1:]
    tool = (*command, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(properties))
    try:
        subprocess.run(tool, capture_output=True, text=True, timeout=_FORMAT_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise ChildFailed(child="kafka format", problem=f"it took more than {_FORMAT_SECONDS:.0f} s", tail="") from None
    except subprocess.CalledProcessError as problem:
        tail = (problem.stdout + problem.stderr)[-4096:]
        raise ChildFailed(child="kafka format", problem=f"exit code {problem.returncode}", tail=tail) from None
