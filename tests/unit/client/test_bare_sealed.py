"""The example that seals without a line of llmos, held against llmos: each opens what the other sealed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import msgspec
import pytest

from llmos.client import Submission
from llmos.infra.crypto.channels import request_bound
from llmos.infra.crypto.credentials import save_credentials
from llmos.infra.crypto.envelope import open_envelope
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac
from llmos.schemas.base import encode
from llmos.schemas.job import Origin
from llmos.schemas.requests import REQUESTS, signed_bytes
from llmos.schemas.results import Answer
from llmos.schemas.tasks import GenerateOutput
from tests.kit.sealing_worker import SECRET, Worker, credentials_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "bare_sealed.py"
SYSTEM = Keyring.memory()
CREDENTIALS = credentials_of(SYSTEM)
WORKER = Worker(CREDENTIALS.reply_keys[0].public)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The script."""
    spec = importlib.util.spec_from_file_location("bare_sealed", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def theirs(example: ModuleType, tmp_path: Path) -> Any:
    """Our credentials as the script reads them."""
    save_credentials(CREDENTIALS, tmp_path / "demo.json")
    return example.Credentials(tmp_path / "demo.json")


def test_its_request_opens(example: ModuleType, theirs: Any) -> None:
    """It is well formed, authentic, and inside is the input."""
    request = REQUESTS.decode(msgpack.packb(example.request_of(theirs, "standard")))
    assert check_mac(SECRET, signed_bytes(request, "standard"), request.mac)
    opened = open_envelope(SYSTEM, request_bound(request, "standard"), request.payload)
    assert msgpack.unpackb(opened) == {"prompt": "ROMEO:\n", "max_tokens": 24}


def answer() -> Answer:
    bare = Answer(
        job_id=b"j" * 16, tenant="demo", request_id="r", origin=Origin("requests", 0, 1), partition=0, s=3,
        status="completed", kind="generate", epochs=[7],
    )  # fmt: skip
    output = GenerateOutput(text="hello", finish="stop", tokens=1)
    return msgspec.structs.replace(bare, items=WORKER.items(bare, output))


def test_it_opens_an_answer_and_checks_who_made_it(example: ModuleType, theirs: Any) -> None:
    """An output without the tenant's digest is no output."""
    wire = msgpack.unpackb(encode(answer()))
    assert example.output_of(theirs, wire, wire["items"][0])["text"] == "hello"
    wire["items"][0]["digest"] = bytes(32)
    with pytest.raises(ValueError, match="none of the system"):
        example.output_of(theirs, wire, wire["items"][0])


def test_it_opens_an_event(example: ModuleType, theirs: Any) -> None:
    """By the binding of the very place."""
    submission = Submission(
        job_id=b"j" * 16, request_id="r", origin=Origin("requests", 0, 1), tenant="demo", partition=0
    )
    event = msgpack.unpackb(encode(WORKER.event(submission, 2, 1, "abc", output_index=1, part=1)))
    assert example.text_of(theirs, event) == "abc"


def test_what_is_not_its_own_it_names(example: ModuleType, theirs: Any) -> None:
    """The key that is missing; and what was changed is found before it is decrypted."""
    wire = msgpack.unpackb(encode(answer()))
    theirs.reply_keys, keys = {}, theirs.reply_keys
    with pytest.raises(KeyError, match="sealed to key"):
        example.output_of(theirs, wire, wire["items"][0])
    theirs.reply_keys = keys
    with pytest.raises(ValueError, match="commits"):
        example.output_of(theirs, wire | {"request_id": "other"}, wire["items"][0])
