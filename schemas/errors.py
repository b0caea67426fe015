"""The one error tree: stable codes, whether a retry helps, and docstrings that are the messages.

    LlmosError
    ├── RefusedError     the client must change the request; travels as an answer
    ├── FailedError      the job ended without a result; travels as an answer
    ├── RecordError      the record cannot be used; travels to the dead-letter topic
    ├── OperatorError    the operator must act; ends the command or the service with a message
    └── Ambiguous        nobody can know what happened; ends the process, start-up recovers

A class's docstring is its message: `UnknownModel(model="x")` fills the braces. Codes never change their meaning.
"""

from __future__ import annotations

from typing import ClassVar


class LlmosError(Exception):
    """Something went wrong in llmos."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    retry_after: float = 0.0
    """When trying again makes sense, in seconds; 0: unknown. Set by the value of that name."""
    raised: str = ""
    """Of an error that was made of an exception of other people's code: the type of that exception. What such an exception
    says may quote somebody's input."""

    def __init__(self, **values: object) -> None:
        self.values = values
        after = values.get("retry_after")
        if isinstance(after, int | float):
            self.retry_after = max(float(after), 0.0)
        text = " ".join((type(self).__doc__ or "").split())
        super().__init__(text.format(**values) if values else text)


class RefusedError(LlmosError):
    """The request was refused: {reason}."""

    code = "refused"


class InvalidRequest(RefusedError):
    """The request is not valid at {where}: {problem}."""

    code = "invalid_request"


class UnknownKind(RefusedError):
    """There is no task kind {kind!r}; the kinds are {known}."""

    code = "unknown_kind"


class UnknownModel(RefusedError):
    """No model named {model!r} is in the catalog; `llmos models list` shows what there is."""

    code = "unknown_model"


class ModelQuarantined(RefusedError):
    """Model {model!r} is in quarantine on {node} and nowhere whole: {problem}; put whole files back, then
    `llmos models verify`."""

    code = "model_quarantined"


class NoChatTemplate(RefusedError):
    """Model {model!r} has no chat template, so it takes no messages; send a prompt."""

    code = "no_chat_template"


class UnknownDevice(RefusedError):
    """No device is named {device!r}; `llmos devices` shows those that are there."""

    code = "unknown_device"


class NotOnDevice(RefusedError):
    """Model {model!r} cannot be on {where}: no node of such a device has its files; `llmos models show` says where it is."""

    code = "not_on_device"


class AliasTaken(RefusedError):
    """{alias!r} is the name of a model and cannot stand for another; choose another alias."""

    code = "alias_taken"


class UnknownAlias(RefusedError):
    """There is no alias {alias!r}; `llmos models list` shows those that there are."""

    code = "unknown_alias"


class ModelPinned(RefusedError):
    """Model {model!r} is pinned on {device}; `llmos models unpin` it there first."""

    code = "model_pinned"


class WrongModel(RefusedError):
    """Model {model!r} cannot do {kind!r}: it is a {architecture}; choose one that can with `llmos models list`."""

    code = "wrong_model"


class TooLong(RefusedError):
    """{tokens} tokens are needed and model {model!r} holds {limit}; shorten the input or lower max_tokens."""

    code = "too_long"


class TooLarge(RefusedError):
    """{what} has {size} bytes and at most {limit} are allowed; send less, or split it into several requests."""

    code = "too_large"


class PayloadDamaged(RefusedError):
    """The payload's CRC32C is {found:08x} and the request says {said:08x}: it was damaged on its way, send it again."""

    code = "payload_damaged"
    retryable = True


class ReplyTopicForbidden(RefusedError):
    """Replies may not go to topic {topic!r}; allowed prefixes are {prefixes}."""

    code = "reply_topic_forbidden"


class PlaintextForbidden(RefusedError):
    """Tenant {tenant!r} must seal its payloads; its policy does not allow clear ones."""

    code = "plaintext_forbidden"


class NotAllowed(RefusedError):
    """Tenant {tenant!r} may not use {what} {name!r}; ask an operator, who sees its rights with `llmos tenants show`."""

    code = "not_allowed"


class QuotaExceeded(RefusedError):
    """Tenant {tenant!r} has used {used} of {limit} {what}; try again in {retry_after:.1f} s."""

    code = "quota_exceeded"
    retryable = True


class UnknownKey(RefusedError):
    """The payload is sealed to key {key_id!r}, which this system does not have (any more); `llmos keys export` tells the
    present one."""

    code = "unknown_key"


class OperatorOnly(RefusedError):
    """Only operators may ask for {what}: sign it with the operators' key, which the keyring of the system has."""

    code = "operator_only"


class IdempotencyConflict(RefusedError):
    """This idempotency key was used with other content by an earlier job; use a new key for new content."""

    code = "idempotency_conflict"


class DeadlineUnreachable(RefusedError):
    """The job would end {predicted:.1f} s from now and its time-out is {timeout:.1f} s; allow more time."""

    code = "deadline_unreachable"
    retryable = True


class NeverFits(RefusedError):
    """Model {model!r} needs {need} bytes and the largest device budget is {have}; use a smaller model."""

    code = "never_fits"


class FailedError(LlmosError):
    """The job failed: {reason}."""

    code = "failed"


class Cancelled(FailedError):
    """The job was cancelled."""

    code = "cancelled"


class Expired(FailedError):
    """The job was not done within its time-out of {timeout:.1f} s; submit it again with more time."""

    code = "expired"
    retryable = True


class WorkerDeaths(FailedError):
    """{deaths} workers died while they ran this task, so it is not tried again; its input may be the cause."""

    code = "worker_deaths"


class AttemptsExhausted(FailedError):
    """{attempts} attempts failed, the last one with: {last}."""

    code = "attempts_exhausted"
    retryable = True


class EngineFailed(FailedError):
    """The model could not run this input: {problem}."""

    code = "engine_failed"
    retryable = True


class ModelUnavailable(FailedError):
    """Model {model!r} could not be loaded on {device!r}: {problem}."""

    code = "model_unavailable"
    retryable = True


class DeviceOutOfMemory(FailedError):
    """The memory of {device} did not suffice for this input ({problem}); it is tried once elsewhere, then shorten it."""

    code = "device_out_of_memory"
    retryable = True


class NotFinite(FailedError):
    """The model's numbers were not finite for this input (NaN or infinity), so that it has no result; the model or its
    dtype may be at fault."""

    code = "not_finite"
    retryable = True


class ModelGone(FailedError):
    """No node has model {model!r} any more, so this cannot be run; put it back, or ask for another."""

    code = "model_gone"


class PayloadUnreadable(FailedError):
    """The sealed payload could not be opened by the worker; the keys do not match."""

    code = "payload_unreadable"


class Unexpected(FailedError):
    """A fault of llmos itself met this request ({problem}), so it was not run and will not run as it is; please report it."""

    code = "unexpected"


class RecordError(LlmosError):
    """The record cannot be used: {problem}."""

    code = "unusable"


class Malformed(RecordError):
    """The record is not a well-formed message: {problem}."""

    code = "malformed"


class UnknownVersion(RecordError):
    """The record is of type {type!r}, which this version does not know; upgrade llmos or send {known}."""

    code = "unknown_version"


class Oversized(RecordError):
    """The record has {size} bytes and at most {limit} are allowed."""

    code = "oversized"


class UnknownTenant(RecordError):
    """There is no tenant {tenant!r}."""

    code = "unknown_tenant"


class Forged(RecordError):
    """The record's authentication code does not match its content."""

    code = "forged"


class Stale(RecordError):
    """The request was signed {seconds:.0f} s before or after the log took it, and {limit:.0f} s are allowed: it is an old one
    sent again, or the client's clock is wrong."""

    code = "stale"


class Replayed(RecordError):
    """The request was taken before: its nonce was used by the one at {first}."""

    code = "replayed"


class Corrupt(RecordError):
    """The checksum does not match the payload: it was damaged on its way."""

    code = "corrupt"


class EnvelopeRejected(RecordError):
    """The envelope could not be opened."""

    code = "envelope_rejected"


class OperatorError(LlmosError):
    """The system cannot go on: {problem}."""

    code = "operator"


class BadSetting(OperatorError):
    """Setting {setting} cannot be used: {problem}."""

    code = "bad_setting"


class Unreachable(OperatorError):
    """{what} at {address} could not be reached within {seconds:.0f} s (setting {setting}): {problem}."""

    code = "unreachable"
    retryable = True


class LayoutMismatch(OperatorError):
    """{what} was made with {found} and the settings say {wanted}; put the setting back or start with new data."""

    code = "layout_mismatch"


class CommitMissing(OperatorError):
    """No committed offset of {group} for {topic}[{partition}], and the beginning of its log is gone: offsets have expired,
    or the group's name has changed. Set the offset with Kafka's own tools to the last one known to be committed; beginning
    at the latest record would lose jobs."""

    code = "commit_missing"


class PositionLost(OperatorError):
    """Offset {offset} of {place} is not in the log, which now holds {begin} to {end}: records were lost to retention or
    deletion, and what they asked for must be submitted again. Lengthen the topic's retention, then start the service
    again; where it then misses a commit, set its group's offset to the earliest one, never to the latest."""

    code = "position_lost"


class TopicMissing(OperatorError):
    """The log has no topic {topic}; `llmos topics --make` makes all topics, `llmos up` does so by itself."""

    code = "topic_missing"


class KeyringMismatch(OperatorError):
    """The keyring {path} is not the one that this system was made with ({problem}); put that one back: jobs that were
    sealed with it, and the tenants' secrets, open with no other."""

    code = "keyring_mismatch"


class SecretUnreadable(OperatorError):
    """No key of the keyring here opens the secret of tenant {tenant!r} (it is under key {key_id}): put back the keyring that
    has this key, or give the tenant another secret (`llmos tenants rotate-secret`) or erase it; until then no request is
    taken, so that none of this tenant's is lost."""

    code = "secret_unreadable"


class TenantTaken(OperatorError):
    """There is a tenant {tenant!r} already, or one whose name with a dot begins or continues it ({other!r}); choose another
    name."""

    code = "tenant_taken"


class NoSuchTenant(OperatorError):
    """There is no tenant {tenant!r}; `llmos tenants list` shows those that there are."""

    code = "no_such_tenant"


class NoSuchDeadLetter(OperatorError):
    """There is no dead letter of {origin}; `llmos dead list` shows those that there are."""

    code = "no_such_dead_letter"


class NotReplayable(OperatorError):
    """The dead letter of {origin} cannot be put back: {problem}."""

    code = "not_replayable"


class ReceiptForged(OperatorError):
    """{count} of {of} receipts are not as they were signed{told}; they are not counted."""

    code = "receipt_forged"


class AlreadyRunning(OperatorError):
    """Another llmos (process {pid}) uses the state directory {directory}; stop it with `llmos down`."""

    code = "already_running"


class ChildFailed(OperatorError):
    """{child} did not become ready: {problem}. The end of its log:
    {tail}"""

    code = "child_failed"


class ChecksumMismatch(OperatorError):
    """{file} does not have the recorded SHA-256: {problem}; remove it and start again to fetch it anew."""

    code = "checksum_mismatch"


class MissingTool(OperatorError):
    """{tool} was not found; {remedy}."""

    code = "missing_tool"


class ModelDamaged(OperatorError):
    """Model directory {directory} cannot be used: {problem}."""

    code = "model_damaged"


class Ambiguous(LlmosError):
    """{operation} ended without a known outcome ({problem}); the process ends so that start-up can recover."""

    code = "ambiguous"
    retryable = True


class Fenced(Ambiguous):
    """{what} was taken over by a newer owner; this process ends."""

    code = "fenced"
