"""Commands that act as a tenant with its credentials, and as operators with the keyring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import Result

from llmos.cli.showing import answer_object, as_it_came
from llmos.client import Answer, CannotOpen
from llmos.infra.crypto.credentials import ReplyKey, save_credentials
from llmos.infra.crypto.keyfile import save_keyring
from llmos.infra.crypto.macs import check_mac
from llmos.schemas.control import signed_control
from llmos.schemas.job import Origin
from llmos.schemas.requests import signed_bytes
from llmos.schemas.tasks import EchoOutput
from tests.kit.sealing_worker import SECRET, Worker


@pytest.fixture
def file(tmp_path: Path, system: Any) -> str:
    """The tenant's credentials."""
    save_credentials(system.credentials, tmp_path / "demo.json")
    return str(tmp_path / "demo.json")


@pytest.mark.parametrize("more", [[], ["--stream"], ["--reply", "ephemeral"], ["--reply", "ephemeral", "--hybrid"]])
def test_with_credentials_a_request_is_sealed_and_its_answer_shown(
    llmos: Callable[..., Result], system: Any, file: str, more: list[str]
) -> None:
    """Nothing else is to be said for it."""
    said = llmos("submit", "echo", "hello", "--credentials", file, *more)
    assert (said.exit_code, said.stdout.strip()) == (0, "hello")
    ((_, request),) = system.requests
    assert request.sealed
    assert b"hello" not in request.payload
    assert bool(request.reply_key) == bool(more and more != ["--stream"])
    assert check_mac(SECRET, signed_bytes(request, "standard"), request.mac)


def test_clear_and_the_secret_alone_send_in_the_clear(
    llmos: Callable[..., Result], system: Any, file: str, tmp_path: Path
) -> None:
    """Both sign."""
    (tmp_path / "secret").write_text(SECRET.hex())
    (tmp_path / "secret").chmod(0o600)
    for words in (["--credentials", file, "--clear"], ["--secret-file", str(tmp_path / "secret")]):
        assert llmos("submit", "echo", "hello", "--no-wait", *words).exit_code == 0
    for _, request in system.requests:
        assert not request.sealed
        assert b"hello" in request.payload
        assert check_mac(SECRET, signed_bytes(request, "standard"), request.mac)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["submit", "echo", "x", "--tenant", "acme", "--credentials", "FILE"], 78, "demo, not of acme"),
        (["submit", "echo", "x", "--credentials", "missing"], 78, "missing"),
        (["submit", "echo", "x", "--credentials", "FILE", "--reply", "ephemeral", "--no-wait"], 2, "--no-wait"),
    ],
)
def test_what_cannot_be_meant_is_told(
    llmos: Callable[..., Result], file: str, words: list[str], code: int, message: str
) -> None:
    """Before anything is sent."""
    said = llmos(*(file if word == "FILE" else word for word in words))
    assert (said.exit_code, said.stdout) == (code, "")
    assert message in said.stderr


def test_tenants_and_operators_sign_what_they_ask(
    llmos: Callable[..., Result], system: Any, file: str, tmp_path: Path
) -> None:
    """A tenant's own jobs under its secret, what is everybody's under the operators' key of the keyring."""
    save_keyring(system.keys, tmp_path / "keyring.json")
    system.bodies |= {"jobs": {"jobs": []}, "models": {"models": [], "aliases": {}}}
    here = ("--state-directory", str(tmp_path))
    assert llmos(*here, "jobs", "list", "--credentials", file).exit_code == 0
    assert llmos(*here, "models", "list").exit_code == 0
    assert llmos(*here, "drain", "node.cpu0").exit_code == 0
    own, wide = system.queries
    assert (own.tenant, own.what, own.reply_to) == ("demo", "jobs", "reply.demo.queries")
    assert check_mac(SECRET, signed_control(own), own.mac)
    (drain,) = system.commands
    assert wide.tenant is None
    for message in (wide, drain):
        assert message.reply_to == "reply.operator.queries"
        assert system.keys.check_mac("operator", signed_control(message), message.mac)


def test_all_jobs_are_for_operators(llmos: Callable[..., Result], system: Any, tmp_path: Path) -> None:
    """With the keyring they are everybody's, without it there is nothing to ask."""
    system.bodies |= {"jobs": {"jobs": []}}
    said = llmos("jobs", "list", "--all")
    assert (said.exit_code, system.queries) == (2, [])
    assert "Only operators" in said.stderr
    save_keyring(system.keys, tmp_path / "keyring.json")
    assert llmos("--state-directory", str(tmp_path), "jobs", "list", "--all").exit_code == 0
    assert system.queries[0].tenant is None


def test_without_the_keyring_everybodys_is_asked_for_as_a_tenant(llmos: Callable[..., Result], system: Any) -> None:
    """The scheduler then shows what concerns the tenant, and refuses commands."""
    system.bodies |= {"models": {"models": [], "aliases": {}}}
    assert llmos("models", "list").exit_code == 0
    assert system.queries[0].tenant == "demo"
    assert llmos("drain", "node.cpu0").exit_code == 0  # this system obeys anybody
    assert system.commands[0].mac == b""


async def test_an_answer_that_cannot_be_opened_is_shown_without_its_outputs() -> None:
    """What stands beside them, status and times, is not sealed."""
    bare = Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=Origin("requests", 0, 1), partition=0, s=1,
        status="completed", kind="echo", epochs=[1],
    )  # fmt: skip
    worker = Worker(ReplyKey.fresh().public)
    answer = msgspec.structs.replace(bare, items=worker.items(bare, EchoOutput(text="a"), EchoOutput(text="b")))

    async def asked() -> Answer | None:
        raise CannotOpen(answer, "a key is missing")

    found = await as_it_came(asked())
    assert found == answer
    assert answer_object(answer)["outputs"] == [{"sealed": True}] * 2
    assert answer_object(answer)["status"] == "completed"
