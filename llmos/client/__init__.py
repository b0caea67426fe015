"""The client library: submit, stream, result, cancel, query; it knows schemas and infra, nothing of the services.

Rooms:

- `client`: the asynchronous client. `blocking`: the same for threads.
- `references`: how a job is named. `building`: a request with its checksum and authentication code.
- `results`: one reader of answers and dead letters for all that this client sent, a search for the rest; `matching`: whose answer it is.
- `streams`: the events of one submission; `assembling`: the reader's rules; `events`: what is shown.
- `queries`: questions to the scheduler. `outputs`: what is inside an answer. `errors`: what can go wrong.
"""

from llmos.client.blocking import BlockingClient
from llmos.client.building import Task
from llmos.client.client import Client
from llmos.client.errors import BadReference, DeadLettered, JobFailed, NoAnswer, NoReply, NoSuchJob, QueryRefused
from llmos.client.events import Event, Final, Moved, StateChanged, TokenText
from llmos.client.outputs import Output
from llmos.client.references import JobRef, Reference, Submission, parse_reference
from llmos.schemas.results import Answer
from llmos.schemas.tasks import EchoInput, EmbedInput, GenerateInput

__all__ = [
    "Answer",
    "BadReference",
    "BlockingClient",
    "Client",
    "DeadLettered",
    "EchoInput",
    "EmbedInput",
    "Event",
    "Final",
    "GenerateInput",
    "JobFailed",
    "JobRef",
    "Moved",
    "NoAnswer",
    "NoReply",
    "NoSuchJob",
    "Output",
    "QueryRefused",
    "Reference",
    "StateChanged",
    "Submission",
    "Task",
    "TokenText",
    "parse_reference",
]
