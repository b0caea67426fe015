"""Requests as they go on the wire."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from llmos.client.building import Task, build
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import check_mac
from llmos.schemas import ids
from llmos.schemas.errors import InvalidRequest, TooLarge
from llmos.schemas.requests import REQUESTS, signed_bytes
from llmos.schemas.tasks import ChatMessage, EchoInput, GenerateInput

SECRET = b"s" * 32


def make(task: Task, secret: bytes = b"", tenant: str = "demo") -> Any:
    return build(task, tenant=tenant, secret=secret, request_id="r", now=1000.0)


def test_a_request_is_what_a_bare_msgpack_reader_expects() -> None:
    """The bytes are one MessagePack map; its payload is the input's map with the right checksum."""
    wire = msgpack.unpackb(make(Task("echo", EchoInput(text="hello"))).value)
    assert wire["type"] == "request/1"
    assert msgpack.unpackb(wire["payload"]) == {"text": "hello"}
    assert wire["crc32c"] == crc32c(wire["payload"])
    assert wire["submitted_at"] == 1000.0


def test_a_map_and_a_struct_make_the_same_request() -> None:
    """Users need not import the input types."""
    struct = make(Task("generate", GenerateInput(prompt="x", max_tokens=5)))
    assert make(Task("generate", {"prompt": "x", "max_tokens": 5})).value == struct.value


@pytest.mark.parametrize(("key", "named"), [(None, "r"), ("order-1", "order-1")])
def test_the_job_id_is_known_before_sending(key: str | None, named: str) -> None:
    """The idempotency key names the job, else the request id."""
    built = make(Task("echo", {"text": "x"}, idempotency_key=key))
    assert built.job_id == ids.job_id("demo", named)


def test_the_code_covers_the_lane_and_the_payload() -> None:
    """A signed request checks out under its lane and no other, and not with another payload."""
    built = make(Task("echo", {"text": "x"}, lane="batch"), SECRET)
    request = REQUESTS.decode(built.value)
    other = REQUESTS.decode(make(Task("echo", {"text": "y"}, lane="batch")).value)
    assert check_mac(SECRET, signed_bytes(request, "batch"), request.mac)
    assert not check_mac(SECRET, signed_bytes(request, "interactive"), request.mac)
    assert not check_mac(SECRET, signed_bytes(other, "batch"), request.mac)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (Task("generate", {"prompt": "x", "max_tokens": 0}), "max_tokens"),
        (Task("generate", GenerateInput(prompt="x", temperature=-1.0)), "temperature"),
        (Task("generate", {"prompt": "x", "messages": [{"role": "user", "content": "y"}]}), "both"),
        (Task("generate", {"messages": [{"role": "king", "content": "y"}]}), "role"),
        (Task("generate", {"prompt": "x", "n": 129}), "n"),
        (Task("echo", {}), "text"),
        (Task("echo", {"text": []}), "text"),
        (Task("echo", {"text": object()}), "object"),
        (Task("echo", {"text": "x"}, priority=10), "priority"),
        (Task("echo", {"text": "x"}, timeout=0), "timeout"),
        (Task("no kind", {"text": "x"}), "kind"),
        (Task("echo", {"text": "x"}, hybrid=True), "ephemeral"),
    ],
)
def test_what_would_be_refused_is_told_at_once(task: Task, problem: str) -> None:
    """Bounds are checked before anything is sent."""
    with pytest.raises(InvalidRequest, match=problem):
        make(task)


def test_a_payload_has_a_largest_size() -> None:
    """More than a mebibyte is refused with both sizes."""
    with pytest.raises(TooLarge, match="1048576"):
        make(Task("echo", {"text": ["x" * 600_000, "y" * 600_000]}))


def test_a_conversation_and_its_sampling_travel_as_they_are() -> None:
    """Structs and maps, with the parameters that the kind knows."""
    sampling = {"n": 2, "logprobs": 3, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    map_ = {"messages": [{"role": "user", "content": "hi"}], **sampling}
    struct = GenerateInput(messages=[ChatMessage(role="user", content="hi")], **sampling)
    for given in (map_, struct):
        assert msgpack.unpackb(msgpack.unpackb(make(Task("generate", given)).value)["payload"]) == map_
