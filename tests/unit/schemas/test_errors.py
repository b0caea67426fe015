"""The error tree: codes that never change their meaning, and messages that every raise of the code base can fill."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmos.cli
import llmos.client.errors
import llmos.infra
import llmos.pipelines
import llmos.schemas
import llmos.services
from llmos.schemas import errors
from llmos.schemas.errors import LlmosError
from tests.unit.schemas.catalogue import errors_of_ours

FOLDERS = [
    Path(str(package.__file__)).resolve().parent
    for package in (llmos.schemas, llmos.infra, llmos.pipelines, llmos.services, llmos.client, llmos.cli)
]
OWN_WORDS = {"CannotOpen", "DeadLettered", "JobFailed"}
"""Errors that fill their message themselves, from what they carry."""

# code → (class, whether a retry helps). A line may be added; one that is here is a promise to clients.
CODES = {
    "internal": ("LlmosError", False),
    "refused": ("RefusedError", False),
    "invalid_request": ("InvalidRequest", False),
    "unknown_kind": ("UnknownKind", False),
    "unknown_model": ("UnknownModel", False),
    "unknown_device": ("UnknownDevice", False),
    "not_on_device": ("NotOnDevice", False),
    "alias_taken": ("AliasTaken", False),
    "unknown_alias": ("UnknownAlias", False),
    "model_pinned": ("ModelPinned", False),
    "wrong_model": ("WrongModel", False),
    "too_long": ("TooLong", False),
    "too_large": ("TooLarge", False),
    "payload_damaged": ("PayloadDamaged", True),
    "reply_topic_forbidden": ("ReplyTopicForbidden", False),
    "plaintext_forbidden": ("PlaintextForbidden", False),
    "idempotency_conflict": ("IdempotencyConflict", False),
    "deadline_unreachable": ("DeadlineUnreachable", True),
    "never_fits": ("NeverFits", False),
    "model_quarantined": ("ModelQuarantined", False),
    "no_chat_template": ("NoChatTemplate", False),
    "device_out_of_memory": ("DeviceOutOfMemory", True),
    "not_finite": ("NotFinite", True),
    "model_gone": ("ModelGone", False),
    "command_refused": ("CommandRefused", False),
    "not_done": ("NotDone", True),
    "not_allowed": ("NotAllowed", False),
    "quota_exceeded": ("QuotaExceeded", True),
    "unknown_key": ("UnknownKey", False),
    "operator_only": ("OperatorOnly", False),
    "stale": ("Stale", False),
    "replayed": ("Replayed", False),
    "tenant_taken": ("TenantTaken", False),
    "no_such_tenant": ("NoSuchTenant", False),
    "no_such_dead_letter": ("NoSuchDeadLetter", False),
    "not_replayable": ("NotReplayable", False),
    "receipt_forged": ("ReceiptForged", False),
    "failed": ("FailedError", False),
    "cancelled": ("Cancelled", False),
    "expired": ("Expired", True),
    "worker_deaths": ("WorkerDeaths", False),
    "attempts_exhausted": ("AttemptsExhausted", True),
    "engine_failed": ("EngineFailed", True),
    "model_unavailable": ("ModelUnavailable", True),
    "unexpected": ("Unexpected", False),
    "payload_unreadable": ("PayloadUnreadable", False),
    "unusable": ("RecordError", False),
    "malformed": ("Malformed", False),
    "unknown_version": ("UnknownVersion", False),
    "oversized": ("Oversized", False),
    "unknown_tenant": ("UnknownTenant", False),
    "forged": ("Forged", False),
    "corrupt": ("Corrupt", False),
    "envelope_rejected": ("EnvelopeRejected", False),
    "operator": ("OperatorError", False),
    "bad_setting": ("BadSetting", False),
    "unreachable": ("Unreachable", True),
    "layout_mismatch": ("LayoutMismatch", False),
    "commit_missing": ("CommitMissing", False),
    "position_lost": ("PositionLost", False),
    "topic_missing": ("TopicMissing", False),
    "keyring_mismatch": ("KeyringMismatch", False),
    "secret_unreadable": ("SecretUnreadable", False),
    "already_running": ("AlreadyRunning", False),
    "child_failed": ("ChildFailed", False),
    "checksum_mismatch": ("ChecksumMismatch", False),
    "missing_tool": ("MissingTool", False),
    "model_damaged": ("ModelDamaged", False),
    "ambiguous": ("Ambiguous", True),
    "fenced": ("Fenced", True),
    "job_failed": ("JobFailed", False),
    "dead_lettered": ("DeadLettered", False),
    "cannot_open": ("CannotOpen", False),
    "no_such_job": ("NoSuchJob", False),
    "no_answer": ("NoAnswer", True),
    "no_reply": ("NoReply", True),
    "unanswered": ("Unanswered", False),
    "query_refused": ("QueryRefused", False),
    "bad_reference": ("BadReference", False),
}


def message(kind: type[LlmosError]) -> str:
    """Its docstring, on one line."""
    return " ".join((kind.__doc__ or "").split())


def placeholders(kind: type[LlmosError]) -> dict[str, str]:
    """The names in the braces, with their formats."""
    return {name: form or "" for _, name, form, _ in string.Formatter().parse(message(kind)) if name is not None}


def test_codes_are_the_promised_ones() -> None:
    """Each class has a code of its own, no two the same one, and says whether a retry helps; nothing is inherited."""
    found = [(kind.__dict__.get("code", "internal"), (kind.__name__, kind.retryable)) for kind in errors_of_ours()]
    assert len(dict(found)) == len(found)
    assert dict(found) == CODES
    for kind in errors_of_ours():
        assert kind.retryable == kind.__dict__.get("retryable", kind.__mro__[1].__dict__.get("retryable", False))


def test_no_error_stands_outside_of_the_errors_of_ours() -> None:
    """Whatever else derives from it anywhere is in one of the two modules."""
    inherited = list(LlmosError.__subclasses__())
    for kind in inherited:
        inherited += kind.__subclasses__()
    ours = {kind for kind in inherited if kind.__module__.startswith("llmos.")}
    assert ours | {LlmosError} == set(errors_of_ours())


def test_each_error_is_in_one_branch() -> None:
    """Who must act is told by the class: client, nobody any more, dead letters, operator, supervisor."""
    branches = (
        errors.RefusedError,
        errors.FailedError,
        errors.RecordError,
        errors.OperatorError,
        errors.Ambiguous,
    )
    for kind in errors_of_ours():
        if kind.__module__ == errors.__name__ and kind is not LlmosError:
            assert sum(issubclass(kind, branch) for branch in branches) == 1, kind


@pytest.mark.parametrize(
    "kind", [kind for kind in errors_of_ours() if kind.__name__ not in OWN_WORDS], ids=lambda kind: kind.code
)
def test_a_message_is_its_docstring_filled_in(kind: type[LlmosError]) -> None:
    """The braces are filled, the text is one sentence or more, and the values stay readable on the error."""
    values = {name: 7.0 if form.endswith("f") else 7 for name, form in placeholders(kind).items()}
    error = kind(**values)
    assert error.values == values
    assert str(error) == message(kind).format(**values)
    assert "{" not in str(error)
    assert str(error)[0].isupper() or str(error)[0].isdigit() or message(kind)[0] == "{"
    assert message(kind)[-1] in ".}"


def test_a_missing_value_is_a_mistake_at_once() -> None:
    """An error that could not say its message would hide what happened."""
    with pytest.raises(KeyError, match="limit"):
        errors.Oversized(size=7)


def test_values_with_braces_are_text() -> None:
    """What a client sent is put in and not read as a pattern."""
    assert str(errors.UnknownModel(model="{limit!r}")).startswith("No model named '{limit!r}' is")


def constructions() -> Iterator[tuple[str, type[LlmosError], ast.Call]]:
    """(place, class, call) of every construction of an error in the packages."""
    named = {kind.__name__: kind for kind in errors_of_ours()}
    for folder in FOLDERS:
        for file in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                    if name in named:
                        yield f"{file.relative_to(folder.parent)}:{node.lineno}", named[name], node


def test_every_raise_fills_the_message() -> None:
    """Wherever the packages make an error they name exactly what its message has braces for."""
    wrong = []
    seen = set()
    for place, kind, call in constructions():
        seen.add(kind)
        given = sorted(str(keyword.arg) for keyword in call.keywords)
        if kind.__name__ not in OWN_WORDS and (call.args or given != sorted(placeholders(kind))):
            wrong.append(f"{place}: {kind.__name__} is given {given} and needs {sorted(placeholders(kind))}")
    assert wrong == []
    assert len(seen) > 40
