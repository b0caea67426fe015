"""Rights: lanes, kinds, topics for answers, clear payloads, and the key that answers are sealed to."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.infra.crypto.credentials import ReplyKey
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.job import Lane
from llmos.schemas.requests import Request
from llmos.services.ingest.rights import is_forbidden, may_reply_to, reply_key_of
from tests.kit.bench import tenant

MINE, THEIRS = ReplyKey.fresh().public, ReplyKey.fresh("mlkem768-x25519").public
LOW_ORDER = bytes([1]) + bytes(32)


def request(**fields: Any) -> Request:
    return Request(**{"request_id": "r", "tenant": "demo", "kind": "echo", "payload": b"x"} | fields)


@pytest.mark.parametrize(
    ("rights", "lane", "fields", "code"),
    [
        pytest.param({}, "interactive", {}, None, id="all, where nothing is said"),
        pytest.param({"lanes": ["batch"]}, "batch", {}, None, id="its lane"),
        pytest.param({"lanes": ["batch"]}, "standard", {}, "not_allowed", id="another lane"),
        pytest.param({"kinds": ["embed"]}, "standard", {"kind": "embed"}, None, id="its kind"),
        pytest.param({"kinds": ["embed"]}, "standard", {}, "not_allowed", id="another kind"),
        pytest.param({}, "standard", {"reply_to": "reply.demo.x"}, None, id="a topic of its own"),
        pytest.param({}, "standard", {"reply_to": "reply.demonic"}, "reply_topic_forbidden", id="one that looks alike"),
        pytest.param({"plaintext": "forbid"}, "standard", {}, "plaintext_forbidden", id="a clear payload"),
        pytest.param({"plaintext": "forbid"}, "standard", {"sealed": True}, None, id="a sealed payload"),
    ],
)
def test_what_is_forbidden(rights: dict[str, Any], lane: Lane, fields: dict[str, Any], code: str | None) -> None:
    """Each right says yes and no."""
    problem = is_forbidden(request(**fields), tenant("demo", **rights), lane, ["reply."])
    assert (problem.code if problem else None) == code


@pytest.mark.parametrize(
    ("prefixes", "topic", "may"),
    [
        ([], "reply.demo.", True),
        ([], "reply.acme.x", False),
        (["reply."], "reply.acme.x", True),
        (["mine."], "mine.x", True),
        (["mine.", "reply.demo."], "reply.demo.x", True),
        (["results"], "results", False),
    ],
)
def test_answers_go_to_topics_of_the_tenant_and_of_nobody_else(prefixes: list[str], topic: str, may: bool) -> None:
    """Its own prefixes, within those that the system gives to anybody: no row of a tenant opens the system's topics."""
    assert may_reply_to(tenant("demo", reply_prefixes=prefixes), topic, ["reply.", "mine."]) is may


@pytest.mark.parametrize(
    ("policy", "fields", "key"),
    [
        pytest.param({"reply_key": MINE}, {}, b"", id="a clear question has a clear answer"),
        pytest.param({"reply_key": MINE}, {"sealed": True}, MINE, id="a sealed one a sealed answer"),
        pytest.param({"reply_key": MINE}, {"reply_key": THEIRS}, THEIRS, id="the request's word counts first"),
        pytest.param({"reply_key": MINE, "plaintext": "forbid"}, {"sealed": True}, MINE, id="nothing may be clear"),
        pytest.param({}, {"sealed": True}, b"", id="sealed by choice, and no key: clear, as its policy allows"),
    ],
)
def test_to_whose_key(policy: dict[str, Any], fields: dict[str, Any], key: bytes) -> None:
    """The request's own key, else the tenant's where anything is sealed."""
    assert reply_key_of(request(**fields), tenant("demo", **policy)) == key


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        pytest.param({"plaintext": "forbid"}, b"", id="none, and nothing may be clear"),
        pytest.param({}, b"\x09rubbish", id="of no known algorithm"),
        pytest.param({}, MINE[:-1], id="too short"),
        pytest.param({}, LOW_ORDER, id="nothing can be sealed to it"),
        pytest.param({"reply_key": b"rubbish"}, b"", id="the tenant's own is none"),
    ],
)
def test_a_key_that_is_none_is_refused(policy: dict[str, Any], key: bytes) -> None:
    """Before any work is done for an answer that nobody could read."""
    with pytest.raises(InvalidRequest, match="reply_key"):
        reply_key_of(request(sealed=True, reply_key=key), tenant("demo", **policy))
