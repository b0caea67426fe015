"""The client with credentials, over a log in memory: what it sends, and what it and others can read of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmos.client import CannotOpen, Client, Final, Moved, Submission, TokenText
from llmos.infra.crypto.credentials import Credentials, credentials_file, save_credentials
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log
from llmos.infra.settings import load
from llmos.schemas import topics
from llmos.schemas.control import Cancel, signed_control
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import Item
from llmos.schemas.results import Answer
from llmos.schemas.tasks import EchoOutput, GenerateOutput
from tests.kit.sealing_worker import SECRET, Worker, credentials_of
from tests.unit.client.test_client import controls

PATIENCE = 20.0
ENDED = GenerateOutput(text="ab", finish="stop", tokens=2)


@pytest.fixture
def credentials() -> Credentials:
    """Of tenant demo."""
    return credentials_of(Keyring.memory())


@pytest.fixture
def file(tmp_path: Path, credentials: Credentials) -> Path:
    """The same in a file, where a system in this state directory keeps it."""
    file = credentials_file(tmp_path, "demo")
    save_credentials(credentials, file)
    return file


@pytest.fixture
async def sealing(log: Log, credentials: Credentials) -> AsyncIterator[Client]:
    """A client that seals."""
    async with Client.over(log, credentials=credentials) as client:
        yield client


async def worker_for(script: Any, to: Submission, credentials: Credentials) -> Worker:
    """A worker that seals as the system would: to the request's own key, else the tenant's."""
    request = (await script.requests())[to.origin]
    return Worker(request.reply_key or credentials.reply_keys[0].public)


async def answered(script: Any, worker: Worker, to: Submission, *outputs: Any, **fields: Any) -> Answer:
    """Writes a sealed answer; gives it as it is written."""
    values: dict[str, Any] = {"kind": "echo", "epochs": [1]} | fields
    bare = Answer(
        job_id=to.job_id, tenant=to.tenant, request_id=to.request_id, origin=to.origin, partition=to.partition, s=1,
        status="completed", **values,
    )  # fmt: skip
    answer = msgspec.structs.replace(bare, items=worker.items(bare, *outputs))
    await script.write(topics.RESULTS, to, answer)
    return answer


async def test_every_way_to_an_answer_gives_it_open(
    sealing: Client, script: Any, credentials: Credentials, broker: MemoryBroker
) -> None:
    """By its reader, by a search, at once, by a stream; also for another process of the tenant, which did not ask."""
    submission = await sealing.submit("echo", {"text": "x"})
    assert submission.sealed
    worker = await worker_for(script, submission, credentials)
    await answered(script, worker, submission, EchoOutput(text="x"))
    async with Client.over(broker.connect("other"), credentials=credentials) as other:
        for client in (sealing, other):
            for name in (submission, str(submission), submission.job_id):
                found = [await client.result(name, PATIENCE), await client.peek(name), await client.look(name)]
                *_, final = [event async for event in client.stream(name, PATIENCE)]
                assert isinstance(final, Final)
                for answer in (*found, final.answer):
                    assert answer is not None
                    assert client.outputs(answer) == [EchoOutput(text="x")]


async def test_a_restarted_client_reads_what_it_asked_for(
    log: Log, script: Any, credentials: Credentials, broker: MemoryBroker, file: Path
) -> None:
    """All it needs is the credentials' file and the text of the reference."""
    async with Client.over(log, credentials=file) as client:
        submission = await client.submit("echo", {"text": "x"})
    worker = await worker_for(script, submission, credentials)
    await answered(script, worker, submission, EchoOutput(text="x"))
    async with Client.over(broker.connect("again"), credentials=file) as client:
        assert client.outputs(await client.result(str(submission), PATIENCE)) == [EchoOutput(text="x")]


@pytest.mark.parametrize("hybrid", [False, True])
async def test_an_ephemeral_answer_is_for_one_client_alone(
    sealing: Client, script: Any, credentials: Credentials, broker: MemoryBroker, hybrid: bool
) -> None:
    """Others with the same credentials hear which key they lack, in a stream as well."""
    submission = await sealing.submit("echo", {"text": "x"}, reply="ephemeral", hybrid=hybrid)
    worker = await worker_for(script, submission, credentials)
    await answered(script, worker, submission, EchoOutput(text="x"))
    assert sealing.outputs(await sealing.result(submission, PATIENCE)) == [EchoOutput(text="x")]
    async with Client.over(broker.connect("other"), credentials=credentials) as other:
        with pytest.raises(CannotOpen, match="does not have"):
            await other.result(str(submission), PATIENCE)
        with pytest.raises(CannotOpen, match="does not have"):
            _ = [event async for event in other.stream(str(submission), PATIENCE)]


async def test_a_moved_stream_is_opened_with_the_key_of_each_attempt(
    sealing: Client, script: Any, credentials: Credentials
) -> None:
    """The second attempt has another data key and goes on from the token that it names inside."""
    submission = await sealing.submit("generate", {"prompt": "x"}, events="tokens")
    first, second = [await worker_for(script, submission, credentials) for _ in range(2)]
    for event in (
        first.event(submission, 1, 0, "a"),
        first.event(submission, 1, 1, "?"),
        second.event(submission, 2, 0, "b", first_token=1, resume_at=1, finish="stop"),
    ):
        await script.write(topics.STREAM, submission, event)
    await answered(script, second, submission, ENDED, kind="generate", epochs=[2])
    events = [event async for event in sealing.stream(submission, PATIENCE)]
    assert [event.text for event in events if isinstance(event, TokenText)] == ["a", "?", "b"]
    assert Moved(output_index=0, epoch=2, resume_at=1, text="a") in events
    assert isinstance(events[-1], Final)
    assert events[-1].replaced == {}
    assert sealing.refused_events == 0


@pytest.mark.parametrize("forgery", ["damaged", "clear", "another request's", "another epoch's"])
async def test_a_bad_event_is_counted_and_the_final_replaces_the_rest(
    sealing: Client, script: Any, credentials: Credentials, forgery: str
) -> None:
    """Nothing that was not opened is shown; the text is whole at the end."""
    submission, other = [await sealing.submit("generate", {"prompt": "x"}, events="tokens") for _ in range(2)]
    worker = await worker_for(script, submission, credentials)
    good = worker.event(submission, 1, 0, "a")
    second = worker.event(submission, 1, 1, "b", finish="stop")
    bad = {
        "damaged": msgspec.structs.replace(second, sealed=second.sealed[:-1] + b"!"),
        "clear": msgspec.structs.replace(second, sealed=b"", text="EVIL"),
        "another request's": msgspec.structs.replace(worker.event(other, 1, 1, "EVIL"), job_id=submission.job_id),
        "another epoch's": msgspec.structs.replace(second, epoch=5),
    }[forgery]
    if forgery == "another request's":
        bad = msgspec.structs.replace(bad, request_id=submission.request_id)
    for event in (good, msgspec.structs.replace(bad, origin=submission.origin)):
        await script.write(topics.STREAM, submission, event)
    await answered(script, worker, submission, ENDED, kind="generate")
    events = [event async for event in sealing.stream(submission, PATIENCE)]
    assert [event.text for event in events if isinstance(event, TokenText)] == ["a"]
    assert isinstance(events[-1], Final)
    assert events[-1].replaced == {0: "ab"}
    assert sealing.refused_events == 1


async def test_the_answer_to_another_submission_is_not_taken_for_mine(
    sealing: Client, script: Any, credentials: Credentials, broker: MemoryBroker
) -> None:
    """A true answer of the tenant's, copied to where another one is awaited, would open: it must name my request."""
    mine, other = [await sealing.submit("echo", {"text": "x"}) for _ in range(2)]
    worker = await worker_for(script, other, credentials)
    theirs = await answered(script, worker, other, EchoOutput(text="theirs"))
    await script.write(topics.RESULTS, mine, msgspec.structs.replace(theirs, origin=mine.origin))
    assert await sealing.peek(mine) is None
    async with Client.over(broker.connect("other"), credentials=credentials) as again:
        assert await again.peek(mine) is None
    await answered(script, worker, mine, EchoOutput(text="mine"))
    assert sealing.outputs(await sealing.result(mine, PATIENCE)) == [EchoOutput(text="mine")]


async def test_a_clear_answer_to_a_sealed_request_is_an_error(sealing: Client, script: Any) -> None:
    """A downgrade by who may write to the log."""
    submission = await sealing.submit("echo", {"text": "x"})
    output = msgspec.msgpack.encode(EchoOutput(text="x"))
    await script.answer(submission, items=[Item(output_index=0, output=output)])
    with pytest.raises(CannotOpen, match="clear"):
        await sealing.result(submission, PATIENCE)


async def test_without_credentials_a_sealed_answer_is_an_error(
    client: Client, script: Any, sealing: Client, credentials: Credentials
) -> None:
    """It names the key."""
    submission = await sealing.submit("echo", {"text": "x"})
    worker = await worker_for(script, submission, credentials)
    await answered(script, worker, submission, EchoOutput(text="x"))
    with pytest.raises(CannotOpen, match="does not have") as caught:
        await client.result(str(submission), PATIENCE)
    assert caught.value.code == "cannot_open"


async def test_credentials_name_the_tenant_and_sign_what_goes_to_control(log: Log, credentials: Credentials) -> None:
    """Another tenant's are refused before anything is sent."""
    async with Client.over(log, credentials=credentials_of(Keyring.memory(), "acme")) as client:
        assert client.tenant == "acme"
        await client.cancel(bytes(16))
    (cancel,) = await controls(log, 1)
    assert isinstance(cancel, Cancel)
    assert check_mac(SECRET, signed_control(cancel), cancel.mac)
    with pytest.raises(BadSetting, match="demo, not of acme"):
        await Client.over(log, tenant="acme", credentials=credentials).__aenter__()


def test_credentials_beside_the_system_are_used_by_themselves(tmp_path: Path, file: Path) -> None:
    """Those of the tenant that is named; a secret or a bare address means what it says."""
    settings = load(state_directory=tmp_path, kafka={"bootstrap": "localhost:1"})
    for client, seals in (
        (Client(settings), True),
        (Client(settings, tenant="acme"), False),
        (Client(settings, secret=SECRET), False),
        (Client(bootstrap="localhost:1"), False),
    ):
        assert (asyncio.run(client._given.identity()).sealing is not None) == seals
    file.chmod(0o644)
    with pytest.raises(BadSetting, match="chmod"):
        asyncio.run(Client(settings)._given.identity())
