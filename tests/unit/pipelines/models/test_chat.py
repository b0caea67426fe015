"""Conversations are written out as `transformers` writes them, by the model's own template, which can reach nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from llmos.pipelines.models.chat import ChatTemplate
from llmos.pipelines.models.manifest import make_manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import InvalidRequest, ModelDamaged, NoChatTemplate
from llmos.schemas.tasks import ChatMessage

CHATML = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "system" and loop.first %}
        {%- continue %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- generation %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + {"content": message.content}|tojson + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL}
CONVERSATIONS = {
    "question": [("user", "Wer bist du? 😀 <b>&amp;</b>")],
    "system": [("system", "  Be brief. "), ("user", "Hello")],
    "turns": [
        ("user", "a\n"),
        ("assistant", "<think>\nhm\n</think>\n\n b "),
        ("user", "c"),
        ("assistant", ""),
        ("user", ""),
    ],
}


def messages(turns: list[tuple[str, str]]) -> list[ChatMessage]:
    return [ChatMessage(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


def write(directory: Path, **values: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


def load(directory: Path) -> Tokenizer:
    return Tokenizer.load(make_manifest(directory, "decoder"))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_written_is_what_transformers_writes(decoder: Path, template: str, conversation: str) -> None:
    """Text and tokens; special tokens that the template writes are not added again."""
    tokens = {"bos_token": "<|endoftext|>", "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>"}}
    write(decoder, chat_template=TEMPLATES[template], **tokens)
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(decoder / "tokenizer.json"),
        chat_template=TEMPLATES[template],
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    )
    turns = [{"role": role, "content": content} for role, content in CONVERSATIONS[conversation]]
    text = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    ours, asked = load(decoder), messages(CONVERSATIONS[conversation])
    assert ours.chat_prompt(asked) == text
    assert ours.prompt_tokens(asked) == ids
    assert ours.count(["ab", asked, "c"]) == [len(ours.encode("ab")), len(ids), len(ours.encode("c"))]


def test_a_template_s_own_words_are_the_refusal(decoder: Path) -> None:
    """What it does not take, the client is told by it."""
    write(decoder, chat_template=MISTRAL, bos_token="<s>", eos_token="</s>")
    tokenizer = load(decoder)
    with pytest.raises(InvalidRequest, match=r"at input\.messages: After the optional system message.*alternate"):
        tokenizer.chat_prompt(messages([("user", "a"), ("user", "b")]))
    with pytest.raises(InvalidRequest, match="Only user and assistant"):
        tokenizer.chat_prompt(messages([("user", "a"), ("tool", "b")]))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('I do not like ' + messages[0].content) }}",
        "{{ raise_exception(messages[0].content) }}",
        "{{ messages[0].content | int(default=messages[0].content) + 1 }}",
        "{{ messages[0][messages[0].content].x }}",
        "{{ {'a': 1}[messages[0].content] + 1 }}",
        "{{ messages[0].content.nothing() }}",
    ],
)
def test_a_template_never_quotes_the_conversation(decoder: Path, template: str) -> None:
    """Refusals travel in the clear: only words that stand in the template itself are repeated."""
    write(decoder, chat_template=template)
    with pytest.raises(InvalidRequest, match=r"input\.messages: .*does not take this conversation \(\w+\)") as refused:
        load(decoder).chat_prompt(messages([("user", "canary")]))
    assert "canary" not in str(refused.value)


def test_a_model_without_a_template_takes_no_messages(decoder: Path) -> None:
    """Named, so that another can be chosen; prompts go on as before."""
    tokenizer = load(decoder)
    with pytest.raises(NoChatTemplate, match="'decoder' has no chat template"):
        tokenizer.count([messages([("user", "a")])])
    assert tokenizer.count(["a"]) == [1]


@pytest.mark.parametrize(
    ("files", "written"),
    [
        ({"tokenizer_config.json": {"chat_template": "{{ messages[0].content }}"}}, "hi"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "no"},
                        {"name": "default", "template": "{{ messages[0].content + '!' }}"},
                    ]
                }
            },
            "hi!",
        ),
        (
            {
                "tokenizer_config.json": {"chat_template": "no", "bos_token": "<s>"},
                "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}",
            },
            "<s>hi",
        ),
        (
            {
                "tokenizer_config.json": {},
                "special_tokens_map.json": {"eos_token": {"content": "</s>"}},
                "chat_template.json": {"chat_template": "{{ messages[0].content + eos_token }}"},
            },
            "hi</s>",
        ),
        ({"tokenizer_config.json": {"chat_template": "{{ unk_token }}{{ messages[0].role }}"}}, "user"),
    ],
    ids=["text", "named", "file", "older file", "token that the model does not name"],
)
def test_where_templates_are_found(decoder: Path, files: dict[str, Any], written: str) -> None:
    """In the configuration, alone or named, or in a file of its own, which goes first."""
    for name, value in files.items():
        (decoder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    assert load(decoder).chat_prompt(messages([("user", "hi")])) == written


def test_named_templates_without_a_default_are_none(decoder: Path) -> None:
    """Nobody knows which one was meant."""
    write(decoder, chat_template=[{"name": "tool_use", "template": "x"}])
    with pytest.raises(NoChatTemplate):
        load(decoder).chat_prompt(messages([("user", "hi")]))


def test_a_template_that_cannot_be_read_refuses_conversations_only(decoder: Path) -> None:
    """The model still continues prompts."""
    write(decoder, chat_template="{% if %}")
    tokenizer = load(decoder)
    assert tokenizer.encode("a")
    with pytest.raises(InvalidRequest, match="chat template cannot be read"):
        tokenizer.chat_prompt(messages([("user", "hi")]))


def test_a_template_of_another_type_is_damage(decoder: Path) -> None:
    """Neither text nor a list of named texts."""
    write(decoder, chat_template=7)
    with pytest.raises(ModelDamaged, match="chat_template is neither"):
        load(decoder)


def test_a_template_that_changed_after_the_scan_is_not_read(decoder: Path) -> None:
    """It decides what the model is asked, so its bytes are those of the manifest."""
    write(decoder, chat_template="x")
    manifest = make_manifest(decoder, "decoder")
    write(decoder, chat_template="y")
    with pytest.raises(ModelDamaged, match=r"tokenizer_config\.json has changed"):
        Tokenizer.load(manifest)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ messages[0].content.format.__self__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_reaches_nothing_else(template: str) -> None:
    """Whatever it tries is a refusal or nothing at all, and never an answer, a change or an exception of another kind."""
    conversation = messages([("user", "hi")])
    try:
        written = ChatTemplate(template, {}).render(conversation)
    except InvalidRequest:
        written = ""
    assert written == ""
    assert conversation == messages([("user", "hi")])
