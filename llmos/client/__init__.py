"""The client library: submit, stream, result, cancel, query; it knows schemas and infra, nothing of the services.

Rooms:

- `client`: the asynchronous client. `blocking`: the same for threads.
- `identity`: who the client is. `sealing`: requests for the system; `opening`: what was sealed to this client.
- `references`: how a job is named. `building`: a request with its checksum and authentication code. `sending`: onto its lane.
- `results`: one reader of answers and dead letters for all that this client sent, a search for the rest; `matching`: whose answer it is; `lookup`: either, opened.
- `streams`: the events of one submission; `assembling`: the reader's rules; `events`: what is shown.
- `queries`: questions and commands to the scheduler. `outputs`: what is inside an answer. `errors`: what can go wrong.
"""

from llmos.client.blocking import BlockingClient
from llmos.client.building import Task
from llmos.client.client import Client
from llmos.client.errors import (
    BadReference,
    CannotOpen,
    CommandRefused,
    DeadLettered,
    JobFailed,
    NoAnswer,
    NoReply,
    NoSuchJob,
    NotDone,
    QueryRefused,
)
from llmos.client.events import Event, Final, Moved, StateChanged, TokenText
from llmos.client.outputs import Output, choices
from llmos.client.queries import Command
from llmos.client.references import JobRef, Reference, Submission, parse_reference
from llmos.infra.crypto.credentials import Credentials, load_credentials
from llmos.schemas.results import Answer
from llmos.schemas.tasks import (
    ChatMessage,
    EchoInput,
    EmbedInput,
    EmbedOutput,
    GenerateInput,
    GenerateOutput,
    TokenLogprob,
    TopToken,
)

__all__ = [
    "Answer",
    "BadReference",
    "BlockingClient",
    "CannotOpen",
    "ChatMessage",
    "Client",
    "Command",
    "CommandRefused",
    "Credentials",
    "DeadLettered",
    "EchoInput",
    "EmbedInput",
    "EmbedOutput",
    "Event",
    "Final",
    "GenerateInput",
    "GenerateOutput",
    "JobFailed",
    "JobRef",
    "Moved",
    "NoAnswer",
    "NoReply",
    "NoSuchJob",
    "NotDone",
    "Output",
    "QueryRefused",
    "Reference",
    "StateChanged",
    "Submission",
    "Task",
    "TokenLogprob",
    "TokenText",
    "TopToken",
    "choices",
    "load_credentials",
    "parse_reference",
]
