"""What verify checks: every refusal once, and what a checked submission carries."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.catalog import Model
from llmos.schemas.errors import LlmosError, UnknownModel
from llmos.schemas.job import ErrorInfo
from llmos.schemas.tasks import Prompt
from llmos.services.verify.checking import Checked, Counted, check
from tests.kit.bench import NOW, SECRET, configured, head, tenant

SETTINGS = configured(
    verify={"reply_prefixes": ["reply.", "mine."], "embed_items_per_part": 2, "echo_items_per_part": 3}
).verify
DECODER = Model(
    identity="d" * 64, name="decoder", architecture="llama", kinds=["generate"], parameters=1, weight_bytes=4,
    context_tokens=20, width=8, dtype="float32",
)  # fmt: skip
ENCODER = msgspec.structs.replace(DECODER, identity="e" * 64, name="encoder", architecture="bert", kinds=["embed"])
WIDE = msgspec.structs.replace(ENCODER, identity="f" * 64, name="wide", width=4000)
BROKEN = msgspec.structs.replace(
    DECODER, identity="b" * 64, name="broken", damaged=ErrorInfo(code="model_damaged", message="a hole in it")
)
TALKER = msgspec.structs.replace(DECODER, identity="c" * 64, name="talker", chat=True)


class Models:
    """A directory of five models; a token a word."""

    def __init__(self, exact: bool = True) -> None:
        self.exact = exact

    def resolve(self, name: str) -> Model:
        """By name."""
        for model in (DECODER, ENCODER, WIDE, BROKEN, TALKER):
            if model.name == name:
                return model
        raise UnknownModel(model=name)

    def count(self, model: Model, texts: Sequence[Prompt]) -> Counted:
        """Words."""
        counts = [len((text if isinstance(text, str) else text[0].content).split()) for text in texts]
        return Counted(counts, self.exact)


def admitted(body: Any, kind: str = "echo", model: str = "", encoding: str = MSGPACK, **fields: Any) -> Admitted:
    """A submission as ingest admits it."""
    encode = msgspec.json.encode if encoding == JSON else msgspec.msgpack.encode
    own = {name: fields.pop(name) for name in ("crc32c", "sealed", "payload") if name in fields}
    values = {"payload": encode(body)} | own
    return Admitted(head=head(kind=kind, model_name=model, **fields), encoding=encoding, **values)


def checked(message: Admitted, *, exact: bool = True, secret: bytes = SECRET, **policy: Any) -> Checked:
    return check(message, tenant(**policy), secret, Models(exact), SETTINGS, NOW + 1)


ECHO = {"text": "a"}
PROMPT = {"prompt": "a b c", "max_tokens": 5}
CHAT = {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 5}


@pytest.mark.parametrize(
    ("message", "policy", "code", "says"),
    [
        pytest.param(admitted(ECHO, crc32c=1), {}, "payload_damaged", "00000001", id="a payload that was damaged"),
        pytest.param(admitted(ECHO, sealed=True), {}, "invalid_request", "sealed", id="a client's envelope"),
        pytest.param(admitted(ECHO, reply_key=b"k"), {}, "invalid_request", "reply_key", id="answers to be sealed"),
        pytest.param(admitted(ECHO), {"plaintext": "forbid"}, "plaintext_forbidden", "'demo'", id="a clear payload"),
        pytest.param(
            admitted(ECHO, reply_to="results"), {}, "reply_topic_forbidden", "reply., mine.", id="a topic of ours"
        ),
        pytest.param(admitted(ECHO, kind="dance"), {}, "unknown_kind", "'dance'", id="an unknown kind"),
        pytest.param(admitted({"text": 1}), {}, "invalid_request", "input.text", id="an input that is wrong"),
        pytest.param(admitted(ECHO, encoding=MSGPACK, payload=b"{}"), {}, "invalid_request", "input", id="rubbish"),
        pytest.param(admitted(PROMPT, "generate", "gpt"), {}, "unknown_model", "'gpt'", id="an unknown model"),
        pytest.param(admitted(PROMPT, "generate"), {}, "invalid_request", "needs a model", id="no model named"),
        pytest.param(admitted(PROMPT, "generate", "encoder"), {}, "wrong_model", "bert", id="a model that cannot"),
        pytest.param(admitted({"text": "a"}, "embed", "decoder"), {}, "wrong_model", "llama", id="the other way"),
        pytest.param(admitted(PROMPT, "generate", "broken"), {}, "model_unavailable", "a hole", id="a damaged model"),
        pytest.param(admitted(CHAT, "generate", "decoder"), {}, "no_chat_template", "'decoder'", id="a conversation"),
        pytest.param(
            admitted(PROMPT | CHAT, "generate", "talker"), {}, "invalid_request", "input", id="a conversation and a prompt"
        ),
        pytest.param(
            admitted({"prompt": "a b c", "max_tokens": 18}, "generate", "decoder"), {}, "too_long", "21 tokens",
            id="longer than the context",
        ),
        pytest.param(
            admitted({"prompt": ["a", "b " * 17], "max_tokens": 4}, "generate", "decoder"), {}, "too_long", "21 tokens",
            id="one of a list",
        ),
        pytest.param(
            admitted({"text": ["x"] * 1024}, "embed", "wide"), {}, "too_large", "the answer", id="too large an answer"
        ),
    ],
)  # fmt: skip
def test_every_refusal(message: Admitted, policy: dict[str, Any], code: str, says: str) -> None:
    """Each says by its code what is wrong and in its text what to change."""
    with pytest.raises(LlmosError) as refused:
        checked(message, **policy)
    assert refused.value.code == code
    assert says in str(refused.value)


def test_the_plainest_reason_comes_first() -> None:
    """A topic that may not be written to, since refusals go there too; then damage, before anything is read."""
    for reply_to, code in (("results", "reply_topic_forbidden"), (None, "payload_damaged")):
        message = admitted({"text": 1}, kind="dance", crc32c=1, sealed=True, reply_to=reply_to)
        with pytest.raises(LlmosError) as refused:
            checked(message, plaintext="forbid")
        assert refused.value.code == code


def test_a_checked_echo() -> None:
    """No model, no tokens; parts of the settings' size; the right checksum passes."""
    message = admitted({"text": ["a", "b", "c", "d"]}, model="of no matter")
    message = msgspec.structs.replace(message, crc32c=crc32c(message.payload))
    found = checked(message)
    assert (found.head.model, found.head.parts, found.head.items, found.head.sealed_at) == ("", 2, 4, NOW + 1)
    assert [(plan.first_item, plan.items, plan.input_tokens) for plan in found.parts] == [(0, 3, 0), (3, 1, 0)]


def test_a_checked_embedding() -> None:
    """The name is resolved to the identity; parts carry their tokens; an encoder has no context to overflow."""
    found = checked(admitted({"text": ["a b", "c " * 99, "d"]}, "embed", "encoder"))
    assert (found.head.model, found.head.model_name) == (ENCODER.identity, "encoder")
    assert [(plan.items, plan.input_tokens) for plan in found.parts] == [(2, 101), (1, 1)]


def test_a_prompt_may_fill_the_context() -> None:
    """Input and output together may take exactly what the model holds."""
    found = checked(admitted({"prompt": "a b c", "max_tokens": 17}, "generate", "decoder"))
    assert [plan.longest_item_tokens for plan in found.parts] == [DECODER.context_tokens]


def test_an_estimate_refuses_nobody() -> None:
    """Without the model's tokenizer the count may be wrong, so the worker has the last word on the length."""
    message = admitted({"prompt": "a b c", "max_tokens": 18}, "generate", "decoder")
    assert checked(message, exact=False).parts[0].longest_item_tokens == 21


@pytest.mark.parametrize("topic", ["reply.x", "mine.", "mine.own"])
def test_replies_go_where_they_may(topic: str) -> None:
    """Any topic under an allowed prefix passes."""
    assert checked(admitted(ECHO, reply_to=topic)).head.reply_to == topic


def test_the_digest_is_of_the_content_alone() -> None:
    """Equal work has an equal digest, however it was written; other work, another kind or model has another."""
    first = checked(admitted(PROMPT, "generate", "decoder")).head.content_digest
    same = [
        admitted(PROMPT, "generate", "decoder", encoding=JSON),
        admitted(PROMPT | {"temperature": 0.0}, "generate", "decoder"),
        admitted(PROMPT, "generate", "decoder", priority=9, timeout=5.0, request_id="other", lane="batch"),
    ]
    assert {checked(message).head.content_digest for message in same} == {first}
    others = [
        admitted(PROMPT | {"prompt": "a b d"}, "generate", "decoder"),
        admitted(PROMPT | {"prompt": ["a b c"]}, "generate", "decoder"),
        admitted(PROMPT | {"seed": 1}, "generate", "decoder"),
        admitted({"text": "a b c"}, "embed", "encoder"),
        admitted({"text": "a b c"}, "echo"),
    ]
    digests = {checked(message).head.content_digest for message in others}
    assert len(digests | {first}) == len(others) + 1


def test_the_digest_tells_nothing_without_the_secret() -> None:
    """It is an HMAC under the tenant's secret: a plain digest of a short text would tell the text."""
    message = admitted(ECHO)
    content = msgspec.msgpack.encode(["echo", "", ECHO])
    assert checked(message).head.content_digest == hmac.digest(SECRET, content, hashlib.sha256)
    assert checked(message, secret=b"other").head.content_digest != checked(message).head.content_digest


def test_a_checked_conversation() -> None:
    """A model with a template takes it, as one part."""
    found = checked(admitted(CHAT, "generate", "talker"))
    assert (found.head.model, [plan.input_tokens for plan in found.parts]) == (TALKER.identity, [3])


def test_a_conversation_needs_a_template_also_where_tokens_are_estimated() -> None:
    """Where verify has no tokenizer, the catalog says what the model can do."""
    with pytest.raises(LlmosError) as refused:
        checked(admitted(CHAT, "generate", "decoder"), exact=False)
    assert refused.value.code == "no_chat_template"
