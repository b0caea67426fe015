"""The parts of the Kafka log that need no broker: errors, names, time stamps, configurations."""

from __future__ import annotations

from itertools import combinations

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka

from llmos.infra.log.kafka import errors
from llmos.infra.log.kafka.creation import configuration
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.kafka.queries import _milliseconds
from llmos.infra.log.port import Out, Place, TopicSpec
from llmos.infra.log.sizes import SLACK_BYTES, excess, size_of
from llmos.infra.log.topics import spec_for, specs
from llmos.infra.settings import load
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.topics import TABLE

_SETS = (errors.FENCED, errors.UNWRITABLE, errors.OUT_OF_RANGE, errors.BUSY, errors.AMBIGUOUS)


def test_every_error_of_aiokafka_means_something() -> None:
    """A class that a new version brings, and that we have not thought about, fails here."""
    there_are = {c for c in vars(kafka).values() if isinstance(c, type) and issubclass(c, Exception)}
    assert there_are == frozenset().union(*_SETS)


def test_no_error_means_two_things() -> None:
    """The sets are apart from each other."""
    assert all(not one & other for one, other in combinations(_SETS, 2))


def test_every_error_can_be_caught() -> None:
    """What `RAISED` names covers all classes of aiokafka."""
    assert all(issubclass(error, errors.RAISED) for group in _SETS for error in group)


def test_errors_are_described_in_one_line() -> None:
    """Also those without a text."""
    assert errors.describe(TimeoutError()) == "no answer in time"
    assert errors.describe(AssertionError()) == "AssertionError"
    assert errors.describe(OSError("no\nroute")) == "OSError: no route"
    assert errors.describe(kafka.KafkaTimeoutError()) == "KafkaTimeoutError"


def test_names_carry_the_prefix_to_kafka_and_back() -> None:
    """Both ways, for names first heard of on either side."""
    names = Names("test.")
    assert names.wire("requests") == "test.requests"
    assert names.partition(Place("a", 3)) == TopicPartition("test.a", 3)
    assert names.place(TopicPartition("test.a", 3)) == Place("a", 3)
    assert Names("test.").place(TopicPartition("test.test.a", 0)) == Place("test.a", 0)


@pytest.mark.parametrize(
    "milliseconds", [0, 1_700_000_000_123, 1_700_000_000_999, 1_795_554_915_094, 4_102_444_800_001]
)
def test_a_records_own_time_finds_the_record(milliseconds: int) -> None:
    """Seconds as floats and back give the same millisecond; a bit later gives the next one."""
    assert _milliseconds(milliseconds / 1000) == milliseconds
    assert _milliseconds(milliseconds / 1000 + 0.0001) == milliseconds + 1


def test_configurations() -> None:
    """Retention or compaction, whose time a record carries, room for the largest record; two copies in a cluster."""
    kept = configuration(TopicSpec("a", 1, 60.5, append_time=True, record_bytes=1000), 1)
    assert kept["retention.ms"] == "60500"
    assert kept["cleanup.policy"] == "delete"
    assert kept["message.timestamp.type"] == "LogAppendTime"
    assert kept["max.message.bytes"] == str(1000 + SLACK_BYTES)
    assert "min.insync.replicas" not in kept
    assert kept["compression.type"] == "uncompressed", "clients' codecs need not be installed here"
    compacted = configuration(TopicSpec("a", 1, None, append_time=False, record_bytes=1000), 3)
    assert compacted["cleanup.policy"] == "compact"
    assert compacted["message.timestamp.type"] == "CreateTime"
    assert "retention.ms" not in compacted
    assert compacted["min.insync.replicas"] == "2"


def test_specs_follow_table_and_settings() -> None:
    """Every topic but the families, with this system's N; a member of a family by its name."""
    settings = load(kafka={"partitions": 3})
    by_name = {spec.name: spec for spec in specs(settings)}
    assert set(by_name) == {topic.name for topic in TABLE if "<" not in topic.name}
    assert by_name["sealed"].partitions == 3
    assert by_name["sealed"].append_time
    assert by_name["epochs"] == TopicSpec("epochs", 1, None, append_time=False, record_bytes=RECORD_BYTES)
    assert spec_for(settings, "work.cpu-0").name == "work.cpu-0"
    assert spec_for(settings, "work.cpu-0").partitions == 1
    with pytest.raises(KeyError):
        spec_for(settings, "nonsense")


def test_sizes() -> None:
    """The value has a limit, key and headers together another one."""
    assert size_of(Out(b"ab", b"cde", (("é", b"xy"),))) == 2 + 3 + 2 + 2
    assert size_of(Out(None, None)) == 0
    assert excess([Out(b"k", bytes(RECORD_BYTES), (("h", bytes(1000)),)), Out(None, None)]) is None
    assert "at most" in (excess([Out(b"k", b""), Out(None, bytes(RECORD_BYTES + 1))]) or "")
    assert "key and headers" in (excess([Out(bytes(SLACK_BYTES), None)]) or "")
    assert "key and headers" in (excess([Out(None, None, (("h", bytes(SLACK_BYTES)),))]) or "")
