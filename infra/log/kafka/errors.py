"""What each of aiokafka's errors means to us; a class that is in no set here fails a test.

Whether aiokafka's own retries help is decided inside of it: what reaches us is either one of the few things that we
know how to go on from, or ambiguous.
"""

from __future__ import annotations

from aiokafka import errors as kafka

from llmos.schemas.errors import Ambiguous

FENCED: frozenset[type[Exception]] = frozenset({kafka.ProducerFenced, kafka.InvalidProducerEpoch})
"""A newer producer of the same transactional id exists (or the broker ended the transaction): nothing became visible."""

UNWRITABLE_RECORDS: frozenset[type[Exception]] = frozenset(
    {kafka.InvalidTimestampError, kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError}
)
"""The broker refuses one of these records for this topic, and will refuse it again; it may take the others."""

UNWRITABLE: frozenset[type[Exception]] = UNWRITABLE_RECORDS | {
    kafka.InvalidTopicError,
    kafka.TopicAuthorizationFailedError,
    kafka.UnsupportedForMessageFormatError,
}
"""The broker refuses these records for this topic, and will refuse them again."""

OUT_OF_RANGE: frozenset[type[Exception]] = frozenset({kafka.OffsetOutOfRangeError})
"""The position lies outside of the log."""

BUSY: frozenset[type[Exception]] = frozenset(
    {
        kafka.BrokerNotAvailableError,
        kafka.Cancelled,
        kafka.ConcurrentTransactions,
        kafka.CorrelationIdError,
        kafka.GroupCoordinatorNotAvailableError,
        kafka.GroupLoadInProgressError,
        kafka.KafkaConnectionError,
        kafka.KafkaProtocolError,
        kafka.KafkaStorageError,
        kafka.KafkaTimeoutError,
        kafka.KafkaUnavailableError,
        kafka.LeaderNotAvailableError,
        kafka.MetadataEmptyBrokerList,
        kafka.NoBrokersAvailable,
        kafka.NodeNotReadyError,
        kafka.NotControllerError,
        kafka.NotCoordinatorForGroupError,
        kafka.NotEnoughReplicasAfterAppendError,
        kafka.NotEnoughReplicasError,
        kafka.NotLeaderForPartitionError,
        kafka.ReassignmentInProgress,
        kafka.ReplicaNotAvailableError,
        kafka.RequestTimedOutError,
        kafka.StaleMetadata,
        kafka.TooManyInFlightRequests,
        kafka.TransactionCoordinatorFenced,
        kafka.UnknownTopicOrPartitionError,
    }
)
"""A question (partitions, offsets, commits) may be asked again; a write that ends so is ambiguous."""

AMBIGUOUS: frozenset[type[Exception]] = frozenset(
    {
        kafka.AuthenticationFailedError,
        kafka.AuthenticationMethodNotSupported,
        kafka.BrokerResponseError,
        kafka.ClusterAuthorizationFailedError,
        kafka.CommitFailedError,
        kafka.ConsumerStoppedError,
        kafka.CorruptRecordException,
        kafka.DelegationTokenAuthDisabled,
        kafka.DelegationTokenAuthorizationFailed,
        kafka.DelegationTokenExpired,
        kafka.DelegationTokenNotFound,
        kafka.DelegationTokenOwnerMismatch,
        kafka.DelegationTokenRequestNotAllowed,
        kafka.DuplicateSequenceNumber,
        kafka.FetchSessionIdNotFound,
        kafka.GroupAuthorizationFailedError,
        kafka.GroupIdNotFound,
        kafka.IllegalArgumentError,
        kafka.IllegalGenerationError,
        kafka.IllegalOperation,
        kafka.IllegalSaslStateError,
        kafka.IllegalStateError,
        kafka.IncompatibleBrokerVersion,
        kafka.InconsistentGroupProtocolError,
        kafka.InvalidCommitOffsetSizeError,
        kafka.InvalidConfigurationError,
        kafka.InvalidFetchRequestError,
        kafka.InvalidFetchSessionEpoch,
        kafka.InvalidGroupIdError,
        kafka.InvalidPartitionsError,
        kafka.InvalidPrincipalType,
        kafka.InvalidProducerIdMapping,
        kafka.InvalidReplicationAssignmentError,
        kafka.InvalidReplicationFactorError,
        kafka.InvalidRequestError,
        kafka.InvalidRequiredAcksError,
        kafka.InvalidSessionTimeoutError,
        kafka.InvalidTransactionTimeout,
        kafka.InvalidTxnState,
        kafka.KafkaConfigurationError,
        kafka.KafkaError,
        kafka.ListenerNotFound,
        kafka.LogDirNotFound,
        kafka.MemberIdRequired,
        kafka.NoError,
        kafka.NoOffsetForPartitionError,
        kafka.NonEmptyGroup,
        kafka.OffsetMetadataTooLargeError,
        kafka.OperationNotAttempted,
        kafka.OutOfOrderSequenceNumber,
        kafka.PolicyViolationError,
        kafka.ProducerClosed,
        kafka.QuotaViolationError,
        kafka.RebalanceInProgressError,
        kafka.RecordTooLargeError,
        kafka.SaslAuthenticationFailed,
        kafka.SecurityDisabled,
        kafka.StaleControllerEpochError,
        kafka.StaleLeaderEpochCodeError,
        kafka.TopicAlreadyExistsError,
        kafka.TransactionalIdAuthorizationFailed,
        kafka.UnknownError,
        kafka.UnknownMemberIdError,
        kafka.UnknownProducerId,
        kafka.UnrecognizedBrokerVersion,
        kafka.UnsupportedCodecError,
        kafka.UnsupportedSaslMechanismError,
        kafka.UnsupportedVersionError,
    }
)
"""Nobody knows what happened, or it is nothing that a service could mend: the process ends."""

RAISED: tuple[type[Exception], ...] = (
    kafka.KafkaError,
    kafka.ConsumerStoppedError,
    kafka.IllegalOperation,
    AssertionError,  # aiokafka's producers, in a state that does not allow the call
    TimeoutError,
    OSError,
    ValueError,
)
"""What a call of aiokafka may raise."""


def describe(error: BaseException) -> str:
    """The error in one line; asyncio's and aiokafka's are often without a text."""
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}" if text else name


def ambiguous(operation: str, error: BaseException) -> Ambiguous:
    """The error as the port raises it."""
    return Ambiguous(operation=operation, problem=describe(error))
