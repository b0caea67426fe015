"""What `llmos doctor` looks at: everything that `llmos up` will need, each with what to do where it is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from llmos.infra.crypto.credentials import load_credentials
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.crypto.keyring import PURPOSES
from llmos.infra.embedded import jars
from llmos.infra.embedded.java import find_java, version_of
from llmos.infra.embedded.redis_server import find_server
from llmos.infra.runtime.main import check_extra
from llmos.infra.settings import Settings
from llmos.pipelines.models.shipped import shipped_models
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.errors import BadSetting, ChecksumMismatch, LlmosError, MissingTool

DISK_BYTES = 2 * 1024**3
"""Room for the log of a small system."""
CONNECT_SECONDS = 3.0


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    """What is there, or how to get it."""
    wrong: bool = False
    """Where it is not ok: it is there, and wrong; else it is missing."""

    @property
    def word(self) -> str:
        """For people."""
        return "ok" if self.ok else "WRONG" if self.wrong else "MISSING"


def all_checks(settings: Settings) -> list[Check]:
    """Everything, in the order in which a start needs it. Blocks for a few seconds."""
    embedded_kafka = not settings.kafka.bootstrap
    kafka: list[Callable[[Settings], Check]] = [java, kafka_jars] if embedded_kafka else [broker]
    found = redis if not settings.redis.url else redis_address
    chosen = [*kafka, found, services, torch, models, disk, keyring, credentials, ports]
    return [check(settings) for check in chosen]


def java(settings: Settings) -> Check:
    """A Java for the embedded broker."""
    try:
        found = find_java(settings.embedded.java)
    except MissingTool as problem:
        return Check("java", False, str(problem))
    return Check("java", True, f"{version_of(found)} at {found}")


def kafka_jars(settings: Settings) -> Check:
    """Kafka's jars: in the cache and unchanged, or obtainable."""
    place = settings.embedded.jars_directory or jars.default_directory()
    try:
        wanted = jars.read_lock()
        there = [jar for jar in wanted if (place / jar.file).is_file()]
        for jar in there:
            jars.check(place / jar.file, jar)
    except ChecksumMismatch as problem:
        return Check("kafka jars", False, str(problem), wrong=True)
    if len(there) == len(wanted):
        return Check("kafka jars", True, f"all {len(wanted)} in {place}, each as recorded")
    missing = len(wanted) - len(there)
    if importlib.util.find_spec("jgo") is not None:
        return Check(
            "kafka jars",
            True,
            f"{missing} of {len(wanted)} will be fetched at the first `llmos up` ({jars.DOWNLOAD} in all)",
        )
    remedy = "install llmos[embedded], which fetches them, or set kafka.bootstrap"
    return Check("kafka jars", False, f"{missing} of {len(wanted)} are not in {place}; {remedy}")


def broker(settings: Settings) -> Check:
    """The broker that the settings name."""
    return _connects("kafka broker", settings.kafka.bootstrap.split(",")[0], "setting kafka.bootstrap")


def redis(settings: Settings) -> Check:
    """A Redis server program."""
    try:
        return Check("redis server", True, str(find_server()))
    except MissingTool as problem:
        return Check("redis server", False, str(problem))


def redis_address(settings: Settings) -> Check:
    """The Redis that the settings name."""
    url = settings.redis.url
    if url.startswith("unix://"):
        path = url.removeprefix("unix://").partition("?")[0]
        return Check("redis", Path(path).exists(), f"socket {path} (setting redis.url)")
    address = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return _connects("redis", address if ":" in address else f"{address}:6379", "setting redis.url")


def services(settings: Settings) -> Check:
    """What services need beside clients."""
    try:
        check_extra()
    except MissingTool as problem:
        return Check("services", False, str(problem))
    return Check("services", True, "all that ingest, verify, scheduler and aggregator need is installed")


def torch(settings: Settings) -> Check:
    """torch, which workers run models with; found, not imported."""
    if importlib.util.find_spec("torch") is not None:
        return Check("torch", True, "installed")
    return Check("torch", False, "workers need it: install llmos[worker]; other services run without")


def models(settings: Settings) -> Check:
    """Models that can be used."""
    directories = [*shipped_models(), *settings.node.models_directories]
    try:
        scan = ModelStore(directories).scan()
    except (LlmosError, OSError) as problem:
        return Check("models", False, str(problem), wrong=True)
    names = ", ".join(sorted(manifest.name for manifest in scan.models.values()))
    if scan.damaged:
        return Check("models", False, "; ".join(str(damaged.problem) for damaged in scan.damaged), wrong=True)
    if not names:
        return Check("models", False, "none; install llmos[demo] or name directories in node.models_directories")
    return Check("models", True, names)


def disk(settings: Settings) -> Check:
    """Room where the state directory is, or will be."""
    place = settings.state_directory.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 1024**3:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return Check("disk", False, f"{place} cannot be written; choose another with --state-directory", wrong=True)
    if free < DISK_BYTES:
        return Check("disk", False, f"{found}; at least {DISK_BYTES / 1024**3:.0f} GiB are wanted")
    return Check("disk", True, found)


def keyring(settings: Settings) -> Check:
    """The keyring, where there is one: whole, and its owner's alone."""
    path = settings.keyring
    if not path.exists():
        return Check("keyring", True, f"none yet; the first `llmos up` makes {path}")
    try:
        keys = load_keyring(path)
    except BadSetting as problem:
        return Check("keyring", False, str(problem), wrong=True)
    missing = [purpose for purpose in PURPOSES if purpose != "tenant" and not keys.holds(purpose)]
    if missing:
        return Check("keyring", False, f"{path} has no keys for {', '.join(missing)}; `llmos keys init` makes them")
    return Check("keyring", True, f"{len(keys.entries)} keys in {path}, for its owner alone")


def credentials(settings: Settings) -> Check:
    """The tenants' credentials beside the system: for their owner alone, and of this keyring."""
    paths = sorted((settings.state_directory / "tenants").glob("*.json"))
    if not paths or not settings.keyring.exists():
        return Check("credentials", True, f"{len(paths)} files")
    try:
        keys = load_keyring(settings.keyring)
        known = {entry.id for entry in keys.entries if entry.purpose == "ingress" and entry.state != "destroyed"}
        found = {path: load_credentials(path) for path in paths}
    except BadSetting as problem:
        return Check("credentials", False, str(problem), wrong=True)
    strangers = [path.name for path, one in found.items() if one.ingress is None or one.ingress.id not in known]
    if strangers:
        remedy = "`llmos up` brings them up to date, if they are of this system"
        found_ = f"{', '.join(strangers)}: sealed to a key that this keyring has not; {remedy}"
        return Check("credentials", False, found_, wrong=True)
    return Check(
        "credentials", True, f"of {', '.join(sorted(one.tenant for one in found.values()))}, each fits the keyring"
    )


def ports(settings: Settings) -> Check:
    """Whether a server may listen on the loopback address, and on the one that the settings name."""
    wanted = (settings.telemetry.host, settings.telemetry.port)
    for address in (("127.0.0.1", 0), wanted):
        with socket.socket() as probe:
            try:
                probe.bind(address)
            except OSError as problem:
                return Check(
                    "ports", False, f"{address[0]}:{address[1]} cannot be used: {problem.strerror}", wrong=True
                )
    return Check("ports", True, "a server may listen on 127.0.0.1")


def _connects(what: str, address: str, setting: str) -> Check:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return Check(what, False, f"{address!r} is not host:port ({setting})", wrong=True)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return Check(what, True, f"{address} answers ({setting})")
    except OSError as problem:
        return Check(what, False, f"{address} cannot be reached: {problem} ({setting})")
