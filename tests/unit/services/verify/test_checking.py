"""What verify checks: every refusal once, and what a checked submission carries."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto import hpke
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.keyring import Keyring
from llmos.pipelines.kinds.embed import BYTES_PER_NUMBER
from llmos.pipelines.kinds.sizes import item_bytes
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.catalog import Model
from llmos.schemas.errors import LlmosError, ModelGone, TooLarge, UnknownModel
from llmos.schemas.ids import job_id
from llmos.schemas.job import ErrorInfo
from llmos.schemas.limits import ANSWER_BYTES
from llmos.schemas.tasks import Prompt
from llmos.services.verify.checking import Checked, Counted, check
from tests.kit.bench import KEYS, NOW, SECRET, configured, head, tenant
from tests.kit.sealing import admitted_of, sealed_request

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
    """A directory of five models, an alias, and a model that is gone; a token a word."""

    def __init__(self, exact: bool = True) -> None:
        self.exact = exact

    def resolve(self, name: str) -> Model:
        """By name."""
        if name == "gone":
            raise ModelGone(model=name)
        if name == "best":
            return DECODER
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


def checked(
    message: Admitted, *, exact: bool = True, secrets: Sequence[bytes] = (SECRET,), keys: Keyring = KEYS, **policy: Any
) -> Checked:
    asking = tenant(**({"reply_prefixes": ["reply.", "mine."]} | policy))
    return check(message, asking, secrets, keys, Models(exact), SETTINGS, NOW + 1)


ECHO = {"text": "a"}
PROMPT = {"prompt": "a b c", "max_tokens": 5}
CHAT = {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 5}


@pytest.mark.parametrize(
    ("message", "policy", "code", "says"),
    [
        pytest.param(admitted(ECHO, crc32c=1), {}, "payload_damaged", "00000001", id="a payload that was damaged"),
        pytest.param(admitted(ECHO, sealed=True), {}, "envelope_rejected", "could not be opened", id="no envelope"),
        pytest.param(admitted(ECHO, reply_key=b"k"), {}, "invalid_request", "reply_key", id="no key for answers"),
        pytest.param(
            admitted(ECHO, reply_key=hpke.public_of("x25519", bytes(32))), {"plaintext": "forbid"}, "plaintext_forbidden",
            "'demo'", id="a clear payload",
        ),
        pytest.param(
            admitted_of(sealed_request(ECHO)), {"plaintext": "forbid"}, "invalid_request", "names no key", id="a clear answer"
        ),
        pytest.param(admitted(ECHO), {"kinds": ["embed"]}, "not_allowed", "kind 'echo'", id="a kind it may not use"),
        pytest.param(admitted(ECHO), {"lanes": ["batch"]}, "not_allowed", "lane 'standard'", id="a lane it may not use"),
        pytest.param(
            admitted(ECHO, reply_to="reply.acme.x"), {"reply_prefixes": []}, "reply_topic_forbidden", "reply.demo.",
            id="another tenant's topic",
        ),
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
    first = checked(admitted(PROMPT, "generate", "decoder", request_id="one")).head.content_digest
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
    content = msgspec.msgpack.encode([message.head.job_id, "echo", "", ECHO])
    assert checked(message).head.content_digest == hmac.digest(SECRET, content, hashlib.sha256)
    assert checked(message, secrets=[b"other"]).head.content_digest != checked(message).head.content_digest


def test_equal_work_of_two_jobs_has_two_digests() -> None:
    """Whoever may read the heads does not see that somebody asked the same again."""
    digests = {
        checked(admitted(ECHO, job_id=job_id("demo", key))).head.content_digest for key in ("one", "another", "third")
    }
    assert len(digests) == 3


def test_while_two_secrets_hold_there_is_a_digest_under_each() -> None:
    """So that what was submitted before a rotation is known again after it."""
    new, old = b"n" * 32, b"o" * 32
    before = checked(admitted(ECHO), secrets=[old]).head
    during = checked(admitted(ECHO), secrets=[new, old]).head
    after = checked(admitted(ECHO), secrets=[new]).head
    assert (before.other_digest, after.other_digest) == (b"", b"")
    assert (during.content_digest, during.other_digest) == (after.content_digest, before.content_digest)


def test_a_checked_conversation() -> None:
    """A model with a template takes it, as one part."""
    found = checked(admitted(CHAT, "generate", "talker"))
    assert (found.head.model, [plan.input_tokens for plan in found.parts]) == (TALKER.identity, [3])


def test_a_conversation_needs_a_template_also_where_tokens_are_estimated() -> None:
    """Where verify has no tokenizer, the catalog says what the model can do."""
    with pytest.raises(LlmosError) as refused:
        checked(admitted(CHAT, "generate", "decoder"), exact=False)
    assert refused.value.code == "no_chat_template"


RIGHTS = [
    # patterns, asked for, what becomes of it
    ([], "decoder", "sealed"),
    ([], "gpt", "unknown_model"),
    (["decoder"], "decoder", "sealed"),
    (["dec*"], "decoder", "sealed"),
    (["DEC*"], "decoder", "not_allowed"),
    (["d" * 64], "decoder", "sealed"),
    (["talker"], "decoder", "not_allowed"),
    (["talker"], "gpt", "not_allowed"),
    (["talker", "gpt"], "gpt", "unknown_model"),
    (["best"], "best", "sealed"),
    (["best"], "decoder", "not_allowed"),
    (["decoder"], "best", "sealed"),
    (["talker"], "best", "not_allowed"),
    (["talker"], "gone", "not_allowed"),
    (["g*"], "gone", "model_gone"),
    (["talker"], "broken", "not_allowed"),
    (["talker"], "encoder", "not_allowed"),
]


@pytest.mark.parametrize(("patterns", "asked", "becomes"), RIGHTS)
def test_rights_to_models(patterns: list[str], asked: str, becomes: str) -> None:
    """By name, identity or the alias asked for; what a tenant may not use might as well not exist."""
    message = admitted(PROMPT, "generate", asked)
    if becomes == "sealed":
        assert checked(message, models=patterns).head.model == DECODER.identity
        return
    with pytest.raises(LlmosError) as refused:
        checked(message, models=patterns)
    assert refused.value.code == becomes


def test_a_refusal_for_want_of_rights_does_not_tell_what_exists() -> None:
    """The same words for a model that is there, one that is not, one that is gone, damaged, or of another kind."""
    said = set()
    for asked in ("decoder", "gpt", "gone", "broken", "encoder"):
        with pytest.raises(LlmosError) as refused:
            checked(admitted(PROMPT, "generate", asked), models=["talker"])
        said.add(str(refused.value).replace(f"'{asked}'", "'…'"))
    assert len(said) == 1


def test_kinds_without_a_model_need_no_right_to_one() -> None:
    """An echo asks for none."""
    assert checked(admitted(ECHO, model="of no matter"), models=["talker"]).parts


def test_a_head_tells_the_numbers_that_were_asked_for() -> None:
    """For the receipt; no text among them, and none that says what the default says."""
    asked = PROMPT | {"temperature": 0.5, "seed": 7, "stop": ["canary"], "top_p": 1.0}
    found = checked(admitted(asked, "generate", "decoder")).head.options
    assert [(option.name, option.value) for option in found] == [
        ("max_tokens", 5.0),
        ("temperature", 0.5),
        ("seed", 7.0),
    ]


@pytest.mark.parametrize("algorithm", ["x25519", "mlkem768-x25519"])
def test_an_answer_that_fits_in_the_clear_may_not_fit_sealed(algorithm: Any) -> None:
    """The largest list that fits does so with what sealing adds, and one more item does not."""
    key = hpke.public_of(algorithm, bytes(hpke.PRIVATE_BYTES[algorithm]))
    item = WIDE.width * BYTES_PER_NUMBER + 64
    fits, fits_clear = (ANSWER_BYTES // (item + item_bytes(public)) for public in (key, b""))
    assert fits < fits_clear < 1024
    for count, public, becomes in ((fits, key, True), (fits + 1, key, False), (fits_clear, b"", True)):
        message = admitted({"text": ["x"] * count}, "embed", "wide", reply_key=public)
        if becomes:
            assert checked(message).head.items == count
        else:
            with pytest.raises(TooLarge):
                checked(message)


CANARY = "canary'`$"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("generate", {"prompt": [CANARY], "max_tokens": CANARY}),
        ("generate", {"messages": [{"role": CANARY, "content": CANARY}]}),
        ("generate", {"messages": [{"role": "user", "content": CANARY}], "prompt": CANARY}),
        ("generate", {"messages": [{"role": "user", "content": CANARY}]}),
        ("generate", {"prompt": CANARY, "stop": [CANARY] * 17}),
        ("generate", {"prompt": f"{CANARY} " * 99}),
        ("echo", {"text": [CANARY, None]}),
        ("embed", {"text": {CANARY: CANARY}}),
    ],
)  # fmt: skip
def test_the_refusal_of_a_sealed_request_says_where_and_not_what(kind: str, body: Any) -> None:
    """What was sealed does not travel on in the words of a refusal."""
    model = {"generate": "decoder", "embed": "encoder", "echo": ""}[kind]
    message = admitted_of(sealed_request(body, kind=kind, model=model))
    with pytest.raises(LlmosError) as refused:
        checked(message)
    assert "canary" not in str(refused.value)
    if refused.value.code == "invalid_request":
        assert str(refused.value.values["where"]).startswith("input.")
