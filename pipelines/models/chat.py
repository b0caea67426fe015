"""Conversations written out as a model wants them: its own chat template, run as `transformers` runs it, in a sandbox.

A template comes with the model and is its author's code: it sees nothing but plain messages and the names of special
tokens, and can reach nothing else. The environment is the one of `transformers.utils.chat_template_utils` (5.23), so
that what is written out is equal.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils
import msgspec

from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.verified import damaged, has_file, verified_bytes, verified_object
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.tasks import ChatMessage

TEMPLATE_FILE = "chat_template.jinja"
OLDER_TEMPLATE_FILE = "chat_template.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names by which templates know special tokens."""


class ChatTemplate:
    """A model's chat template. It may be rendered from any thread."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._template: jinja2.Template | None = None
        self._problem = ""
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except (jinja2.TemplateError, RecursionError) as problem:
            # the model generates from prompts all the same: only conversations are refused
            self._problem = f"the model's chat template cannot be read: {problem}"[:500]

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The text of a conversation, up to where the model is to answer.

        Raises:
            InvalidRequest: the template does not take this conversation; in its own words, where these are written in the
                template itself: what it puts together, or what Python says, may quote the conversation.
        """
        if self._template is None:
            raise InvalidRequest(where="input.messages", problem=self._problem)
        plain = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=plain, add_generation_prompt=True, **self._special_tokens)
        except Exception as problem:  # noqa: BLE001  a template may raise whatever Python raises
            raise InvalidRequest(where="input.messages", problem=self._own_words(problem)) from None

    def _own_words(self, problem: Exception) -> str:
        text = str(problem)
        if isinstance(problem, jinja2.TemplateError) and text and text in self._source:
            return text[:500]
        return f"the model's chat template does not take this conversation ({type(problem).__name__})"


def read_chat_template(manifest: Manifest) -> ChatTemplate | None:
    """The model's template, if it has one: the file of its own first, as `transformers` does it, then the configuration.

    Raises:
        ModelDamaged: a file is missing, has not the bytes of the manifest, or is not what it should be.
    """
    configuration = verified_object(manifest, "tokenizer_config.json")
    source = _source(manifest, configuration)
    return None if source is None else ChatTemplate(source, _special_tokens(manifest, configuration))


def _source(manifest: Manifest, configuration: Mapping[str, Any]) -> str | None:
    if has_file(manifest, TEMPLATE_FILE):
        try:
            return verified_bytes(manifest, TEMPLATE_FILE).decode()
        except UnicodeDecodeError as problem:
            raise damaged(manifest, f"{TEMPLATE_FILE} is no text: {problem}") from None
    value = configuration.get("chat_template")
    if value is None:
        value = verified_object(manifest, OLDER_TEMPLATE_FILE).get("chat_template")
    if value is None or isinstance(value, str):
        return value
    try:
        named = {one.name: one.template for one in msgspec.convert(value, list[_Named])}
    except msgspec.ValidationError as problem:
        raise damaged(manifest, f"chat_template is neither text nor a list of named texts: {problem}") from None
    return named.get("default")


class _Named(msgspec.Struct):
    """One of several templates."""

    name: str
    template: str


def _special_tokens(manifest: Manifest, configuration: Mapping[str, Any]) -> dict[str, str]:
    """The strings of the special tokens, by the names that templates use; those the model does not name stay undefined."""
    older = verified_object(manifest, "special_tokens_map.json")
    found = {}
    for name in SPECIAL_TOKENS:
        value = configuration.get(name) or older.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` … `{% endgeneration %}`: marks what an assistant said, for training; here it is what is inside."""

    tags = {"generation"}  # noqa: RUF012  the base class has it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's own would let a template set what Python itself looks at."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no {name!r}")
        super().__setitem__(name, value)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = lambda *args, **values: dict(*args, **values)  # not the type, with all it has
    environment.globals["namespace"] = _Namespace
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would write HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    # the local date, as `transformers` has it: templates write “Today Date” with it
    return datetime.datetime.now().strftime(pattern)


_ENVIRONMENT = _environment()
