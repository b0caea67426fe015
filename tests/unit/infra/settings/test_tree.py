"""Where a setting comes from, and that a wrong one stops the start by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.infra.settings import load
from llmos.schemas.errors import BadSetting
from llmos.schemas.limits import PARTITIONS


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that is read, empty so far."""
    file = tmp_path / "llmos.toml"
    file.write_text("")
    monkeypatch.setenv("LLMOS_CONFIG", str(file))
    return file


def test_flag_before_environment_before_file_before_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source is set for one group less than the one below it; every setting comes from the first that has it."""
    config.write_text('[kafka]\nbootstrap = "file"\ntopic_prefix = "file"\npartitions = 5\n[node]\nname = "file"\n')
    monkeypatch.setenv("LLMOS_KAFKA__BOOTSTRAP", "environment")
    monkeypatch.setenv("LLMOS_KAFKA__TOPIC_PREFIX", "environment")
    settings = load(kafka={"bootstrap": "flag"})
    assert settings.kafka.bootstrap == "flag"
    assert settings.kafka.topic_prefix == "environment"
    assert settings.kafka.partitions == 5
    assert settings.kafka.replication_factor == 1
    assert settings.node.name == "file"


def test_a_group_within_a_group_is_mixed_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value of a lane from each source, and the lane's own default for the rest of the lanes."""
    config.write_text("[ingest.interactive]\njobs = 1\nbytes = 2\n")
    monkeypatch.setenv("LLMOS_INGEST__INTERACTIVE__JOBS", "3")
    settings = load(ingest={"batch": {"jobs": 4}})
    assert (settings.ingest.interactive.jobs, settings.ingest.interactive.bytes) == (3, 2)
    assert (settings.ingest.batch.jobs, settings.ingest.standard.jobs) == (4, 2000)


def test_a_group_may_be_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, under a single value's own variable."""
    monkeypatch.setenv("LLMOS_KAFKA", '{"bootstrap": "json", "topic_prefix": "json"}')
    monkeypatch.setenv("LLMOS_KAFKA__BOOTSTRAP", "own")
    assert (load().kafka.bootstrap, load().kafka.topic_prefix) == ("own", "json")


@pytest.mark.parametrize(
    "variable",
    [
        "LLMOS_",
        "LLMOS_KAFAK__BOOTSTRAP",
        "LLMOS_KAFKA__BOOTSTRAPP",
        "LLMOS_KAFKA_BOOTSTRAP",
        "LLMOS_KAFKA__",
        "LLMOS_KAFKA__BOOTSTRAP__X",
        "LLMOS_STATE_DIRECTORY__X",
        "LLMOS_INGEST__BATCH__JOBZ",
        "LLMOS_INGEST__BATCH__JOBS__X",
        "llmos_kafak__bootstrap",
        "llmos_config",
    ],
)
def test_a_misspelt_variable_stops_the_start(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; ignored, it would leave a default in force that nobody wanted."""
    monkeypatch.setenv(variable, "7")
    with pytest.raises(BadSetting, match=f"Setting {variable} "):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("LLMOS_KAFKA__PARTITIONS", "eight", "kafka.partitions"),
        ("LLMOS_KAFKA__PARTITIONS", "0", "kafka.partitions"),
        ("LLMOS_KAFKA__PARTITIONS", "", "kafka.partitions"),
        ("LLMOS_KAFKA__TOPIC_PREFIX", "a b", "kafka.topic_prefix"),
        ("LLMOS_KAFKA__CONNECT_SECONDS", "nan", "kafka.connect_seconds"),
        ("LLMOS_KAFKA", "[]", "kafka"),
        ("LLMOS_KAFKA", "eight", "LLMOS_KAFKA"),
        ("LLMOS_INSTANCE__I", "-1", "instance.i"),
        ("LLMOS_INGEST__BATCH__JOBS", "0", "ingest.batch.jobs"),
        ("LLMOS_INGEST__BATCH", "{", "LLMOS_INGEST__BATCH"),
        ("LLMOS_INGEST__RESUME_FRACTION", "1.5", "ingest.resume_fraction"),
        ("LLMOS_SCHEDULER__POLICY", "fifo", "scheduler.policy"),
        ("LLMOS_NODE__MODELS_DIRECTORIES", "/m", "LLMOS_NODE__MODELS_DIRECTORIES"),
        ("LLMOS_NODE__MODELS_DIRECTORIES", '{"a": 1}', "node.models_directories"),
        ("LLMOS_NODE__NAME", "a/b", "node.name"),
        ("LLMOS_NODE__NAME", "a\n", "node.name"),
        ("LLMOS_TELEMETRY__PORT", "65536", "telemetry.port"),
        ("LLMOS_TELEMETRY__LOG_LEVEL", "loud", "telemetry.log_level"),
    ],
)
def test_an_unreadable_value_stops_the_start(
    variable: str, value: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very setting is named, not only its group."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as refused:
        load()
    assert refused.value.values["setting"] == setting


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        (b"[kafak]\nbootstrap = 'x'", "kafak"),
        (b"[kafka]\nbootstrapp = 'x'", "kafka.bootstrapp"),
        (b"kafka = 3", "kafka"),
        (b"[kafka]\npartitions = 'eight'", "kafka.partitions"),
        (b"[ingest.batch]\njobs = 0", "ingest.batch.jobs"),
        (b"[kafka", "FILE"),
        (b"[kafka]\nbootstrap = '\xff'", "FILE"),
    ],
)
def test_a_wrong_file_stops_the_start(text: bytes, setting: str, config: Path) -> None:
    """An unknown key or a wrong value is named; where it is no TOML, the file is."""
    config.write_bytes(text)
    with pytest.raises(BadSetting) as refused:
        load()
    assert refused.value.values["setting"] == setting.replace("FILE", str(config))


@pytest.mark.parametrize(("path", "setting"), [("/no/such/file", "LLMOS_CONFIG"), ("/proc/self/mem", "/proc/self/mem")])
def test_a_settings_file_that_was_named_must_be_read(path: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there, or that gives an error on reading, is not passed over."""
    monkeypatch.setenv("LLMOS_CONFIG", path)
    with pytest.raises(BadSetting) as refused:
        load()
    assert refused.value.values["setting"] == setting


@pytest.mark.parametrize("overrides", [{"kafka": {"bootstrapp": "x"}}, {"kafak": {}}, {"kafka": {"partitions": 0}}])
def test_a_wrong_flag_stops_the_start(overrides: dict[str, Any]) -> None:
    """Flags are held to the same tree."""
    with pytest.raises(BadSetting, match="Setting kaf"):
        load(**overrides)


@pytest.mark.parametrize(("i", "n", "fine"), [(0, 1, True), (2, 3, True), (1, 1, False), (3, 3, False), (9, 2, False)])
def test_an_instance_is_one_of_n(i: int, n: int, fine: bool) -> None:
    """Instance i of n owns p mod n = i; with i ≥ n it would own nothing."""
    if fine:
        assert load(instance={"i": i, "n": n}).instance.i == i
    else:
        with pytest.raises(BadSetting, match=rf"instance\.i.*{i} is not below instance\.n = {n}"):
            load(instance={"i": i, "n": n})


def test_n_is_held_to_what_a_commits_metadata_can_take() -> None:
    """The bound is the limit of the schemas, not a number of its own."""
    assert load(kafka={"partitions": PARTITIONS}).kafka.partitions == PARTITIONS
    with pytest.raises(BadSetting, match=r"kafka\.partitions.*it must be at most"):
        load(kafka={"partitions": PARTITIONS + 1})


def test_the_tree_cannot_be_changed_after_it_was_read() -> None:
    """Read once; whoever holds it sees what the others see."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.partitions = 9  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.state_directory = Path("x")  # type: ignore[misc]
