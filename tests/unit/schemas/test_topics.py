"""The table of topics: names go both ways, what a row says is carried is what is read, and nothing is lost too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.schemas import topics
from llmos.schemas.admitted import ADMITTED
from llmos.schemas.base import Codec
from llmos.schemas.catalog import CATALOG, TENANTS
from llmos.schemas.control import CONTROL, Reply
from llmos.schemas.dead import DEAD
from llmos.schemas.epochs import EPOCHS
from llmos.schemas.errors import UnknownVersion
from llmos.schemas.job import LANES
from llmos.schemas.limits import PAYLOAD_BYTES, RECORD_BYTES, TIMEOUT_SECONDS
from llmos.schemas.partials import PARTIALS
from llmos.schemas.requests import REQUESTS
from llmos.schemas.results import RESULTS, USAGE
from llmos.schemas.sealed import SEALED
from llmos.schemas.stream import STREAM
from llmos.schemas.telemetry import TELEMETRY
from llmos.schemas.work import WORK
from tests.unit.schemas import golden
from tests.unit.schemas.catalogue import messages

CODEC_OF: dict[str, Codec] = {
    "requests.interactive": REQUESTS,
    "requests": REQUESTS,
    "requests.batch": REQUESTS,
    "admitted": ADMITTED,
    "sealed": SEALED,
    "work.<device>": WORK,
    "stream": STREAM,
    "partials": PARTIALS,
    "results": RESULTS,
    "usage": USAGE,
    "dead": DEAD,
    "control": CONTROL,
    "telemetry": TELEMETRY,
    "catalog": CATALOG,
    "tenants": TENANTS,
    "epochs": EPOCHS,
}
DEVICES = st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True)


def test_the_table_has_each_topic_once() -> None:
    """The topics of the design, and no two rows of one name."""
    assert [topic.name for topic in topics.TABLE] == list(CODEC_OF)


@pytest.mark.parametrize("name", CODEC_OF)
def test_a_topic_carries_what_its_codec_reads(name: str) -> None:
    """`carries` names real messages, and the topic's codec accepts the records of exactly those."""
    carried = {kind.__name__: kind for kind in messages()}
    wanted = [carried[word] for word in topics.topic_named(name).carries.split(", ")]
    assert CODEC_OF[name].types == tuple(wanted)
    for record_name, value in golden.VALUES.items():
        data = golden.recorded()[record_name]
        if type(value) in wanted:
            assert CODEC_OF[name].decode(data) == value
        else:
            with pytest.raises(UnknownVersion):
                CODEC_OF[name].decode(data)


def test_every_message_is_carried_somewhere() -> None:
    """Replies go to topics of their askers; every other message has a topic of the table."""
    carried = {kind for codec in CODEC_OF.values() for kind in codec.types}
    assert set(messages()) - carried == {Reply}


@given(DEVICES)
def test_a_device_has_a_topic_and_the_topic_its_device(device: str) -> None:
    """The name goes there and back, and the family's row is found by a member's name."""
    assert topics.device_of(topics.work_topic(device)) == device
    assert topics.topic_named(topics.work_topic(device)).name == "work.<device>"


@pytest.mark.parametrize("name", [*CODEC_OF, "work", "work.", "work.a b", "work.a\n", "workers.a", "my.work.a", ""])
def test_other_names_have_no_device(name: str) -> None:
    """Only `work.` and characters that a topic may have."""
    assert topics.device_of(name) is None


@pytest.mark.parametrize("name", ["", "work", "request", "requests.x", "Sealed", "work.a b"])
def test_there_is_no_row_for_other_names(name: str) -> None:
    """A name that is not in the table is a mistake of the caller's."""
    with pytest.raises(KeyError):
        topics.topic_named(name)


def test_each_lane_has_its_requests_topic() -> None:
    """Lanes and topics go both ways, the most urgent first."""
    assert [topics.lane_of(topics.REQUESTS[lane]) for lane in LANES] == list(LANES)
    assert [topic.name for topic in topics.TABLE[:3]] == [topics.REQUESTS[lane] for lane in LANES]


def test_nothing_is_dropped_while_it_is_needed() -> None:
    """`sealed` outlasts the longest time-out and an outage of hours; what is read back at a start outlasts `sealed`."""
    kept = {topic.name: topic.retention_seconds for topic in topics.TABLE}
    sealed = kept["sealed"]
    assert sealed is not None
    assert sealed >= TIMEOUT_SECONDS + 6 * 3600
    for name in ("partials", "results", "usage", "requests", "requests.interactive", "requests.batch"):
        seconds = kept[name]
        assert seconds is not None
        assert seconds > sealed
    assert {name for name, seconds in kept.items() if seconds is None} == {"catalog", "tenants", "epochs"}


def test_windows_are_measured_by_the_brokers_clock() -> None:
    """The idempotency window lies between append times, so both its topics are stamped by the broker, and cancels too; so
    are requests, whose retention no client's clock may shorten."""
    stamped = {topic.name for topic in topics.TABLE if topic.append_time}
    assert stamped == {*topics.REQUESTS.values(), "sealed", "usage", "control"}


def test_the_topics_of_jobs_have_n_partitions() -> None:
    """What belongs to a job id lies in the same partition of each of them."""
    many = {topic.name for topic in topics.TABLE if topic.partitions == topics.MANY}
    assert many == {*topics.REQUESTS.values(), "admitted", "sealed", "stream", "partials", "results", "usage"}


def test_a_request_has_room_for_its_payload() -> None:
    """The largest payload and its metadata fit a record of a requests topic, and that any other topic's."""
    for topic in topics.TABLE:
        assert PAYLOAD_BYTES + 16 * 1024 < topic.record_bytes <= RECORD_BYTES
