"""The command itself, with a system in memory behind it that answers as a test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from llmos.cli.app import exit_code
from llmos.cli.running import Service, end, instance_of
from llmos.client import JobFailed
from llmos.infra.settings import load
from llmos.schemas.errors import Ambiguous, BadSetting, Expired, UnknownModel
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer
from llmos.schemas.telemetry import DeviceReport, SchedulerReport

JOB = "00" * 16


def test_submit_prints_the_answer_alone(llmos: Callable[..., Result], system: Any) -> None:
    """Standard output is the text; the job is named beside it; options reach the request."""
    words = ("--lane", "batch", "--priority", "7", "--tenant", "acme", "--clear", "--timeout", "9")
    said = llmos("submit", "echo", "hello", *words)
    assert (said.exit_code, said.stdout) == (0, "hello\n")
    assert "job " in said.stderr
    ((topic, request),) = system.requests
    assert (topic, request.priority, request.tenant, request.timeout) == ("requests.batch", 7, "acme", 9.0)


def test_several_texts_are_one_job(llmos: Callable[..., Result], system: Any) -> None:
    """Lines of standard input make a list with numbered outputs."""
    assert llmos("submit", "echo", "-", stdin="a\nb\n").stdout == "[0] a\n[1] b\n"
    assert len(system.requests) == 1


def test_submit_without_waiting_prints_what_finds_the_job(llmos: Callable[..., Result]) -> None:
    """The reference has id and origin; with `--json` as an object."""
    printed = llmos("submit", "echo", "x", "--no-wait").stdout.strip()
    assert len(printed.partition("@")[0]) == 32
    assert printed.partition("@")[2].startswith("requests:")
    found = json.loads(llmos("submit", "echo", "x", "--no-wait", "--json").stdout)
    assert found["reference"].startswith(found["job"])


def test_streams_are_shown_as_text_or_json(llmos: Callable[..., Result], system: Any) -> None:
    """Where nothing is streamed the final brings the text."""
    assert llmos("submit", "echo", "x", "--stream").stdout == "x\n"
    assert system.requests[0][1].events == "tokens"
    (final,) = [json.loads(line) for line in llmos("submit", "echo", "x", "--stream", "--json").stdout.splitlines()]
    assert (final["event"], final["answer"]["outputs"]) == ("final", [{"text": "x"}])


def test_a_refusal_is_a_message_and_exit_code_2(llmos: Callable[..., Result], system: Any) -> None:
    """Also with `--json`, where the answer is printed as well."""
    system.refuse = True
    for more in ([], ["--stream"]):
        said = llmos("submit", "echo", "x", *more)
        assert (said.exit_code, said.stdout) == (2, "")
        assert "refused: no such model" in said.stderr
    said = llmos("submit", "echo", "x", "--json")
    assert said.exit_code == 2
    assert json.loads(said.stdout)["error"] == {
        "code": "unknown_model",
        "message": "no such model",
        "retryable": False,
        "retry_after": 0.0,
    }


def test_a_dead_letter_is_told_at_once(llmos: Callable[..., Result], system: Any) -> None:
    """A request that no stage could use has no answer; the reason ends the waiting, of a stream too."""
    system.dead = True
    for more in ([], ["--stream"]):
        said = llmos("submit", "echo", "x", "--tenant", "nobody", "--clear", *more)
        assert (said.exit_code, said.stdout) == (2, "")
        assert "unknown_tenant: no such tenant" in said.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["result", "zz"], 1, "names no job"),
        (["result", JOB], 1, "no such job"),
        (["attach", JOB], 1, "no such job"),
        (["jobs", "show", JOB], 1, "no such job"),
        (["cancel", JOB], 1, "nothing live has that id"),
        (["result", f"{JOB}@requests:0:1"], 1, "no such job"),
        (["result", f"{JOB}@nowhere:0:1"], 1, "no such job"),
        (["submit", "generate", "x", "--max-tokens", "9999"], 2, "--max-tokens"),
        (["submit", "echo", "x", "--timeout", "-1"], 2, "--timeout"),
        (["submit", "echo", "x", "--timeout", "99999"], 2, "--timeout"),
        (["submit", "echo", "x", "--tenant", "No Body"], 2, "--tenant"),
        (["submit", "echo", "x", "--set-input", "y=1"], 2, "echo has no field y; echo has "),
        (["models", "alias", "two words", "tiny"], 2, "a letter or digit first"),
        (["--set", "ingest.bogus=1", "status"], 78, "there is no such setting"),
        (["submit", "nothing", "x"], 2, "nothing"),
        (["--set", "kafka.nothing=1", "status"], 78, "kafka.nothing"),
        (["--set", "kafka", "status"], 78, "group.name=value"),
        (["--config", "missing.toml", "status"], 78, "missing.toml"),
        (["submit", "echo", "x", "--secret-file", "missing"], 78, "missing"),
    ],
)
def test_errors_are_messages(llmos: Callable[..., Result], words: list[str], code: int, message: str) -> None:
    """What is wrong is told on standard error, never as a traceback."""
    said = llmos(*words)
    assert (said.exit_code, said.stdout) == (code, "")
    assert message in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Ambiguous(operation="x", problem="y"), 1),
        (UnknownModel(model="x"), 2),
        (Expired(timeout=1.0), 2),
        (BadSetting(setting="x", problem="y"), 78),
    ],
)
def test_exit_codes_follow_the_error_tree(problem: Any, code: int) -> None:
    """Who must act decides."""
    assert exit_code(problem) == code


def test_a_failed_job_is_exit_code_2() -> None:
    """As a refusal."""
    answer = Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=Origin("requests", 0, 0), partition=0, s=0,
        status="failed",
    )  # fmt: skip
    assert exit_code(JobFailed(answer)) == 2


def test_errors_before_the_sending_are_json_objects_too(llmos: Callable[..., Result], system: Any) -> None:
    """With code, message and whether a retry helps, as those of answers."""
    system.bodies["job"]["submissions"] = [{"origin": ["requests", 0, 1]}]
    for words, code, retryable in (
        (["submit", "echo", "x", "--tenant", "No Body"], "invalid_request", False),
        (["result", JOB, "--timeout", "0.01"], "no_answer", True),
    ):
        error = json.loads(llmos(*words, "--json").stdout)["error"]
        assert (error["code"], error["retryable"]) == (code, retryable)
        assert error["message"]


def test_standard_input_that_is_no_text_is_an_error_of_the_user(llmos: Callable[..., Result]) -> None:
    """It is told with its line and exit code 2, not as a bug."""
    said = llmos("submit", "echo", "-", stdin=b"a\n\xff\n")
    assert (said.exit_code, said.stdout) == (2, "")
    assert "line 2 of standard input" in said.stderr


def test_cancel_reaches_control(llmos: Callable[..., Result], system: Any) -> None:
    """It names the job and the tenant, also where nothing live has its id."""
    assert llmos("cancel", JOB, "--tenant", "demo").exit_code == 1
    assert [cancel.tenant for cancel in system.cancels] == ["demo"]
    system.cancels.clear()
    system.bodies["job"]["submissions"] = [{"origin": ["requests", 0, 1]}]
    assert llmos("cancel", f"{JOB}@requests:0:1").exit_code == 0
    (cancel,) = system.cancels
    assert (cancel.job_id, cancel.tenant) == (bytes(16), "demo")


def test_the_scheduler_report_is_shown(llmos: Callable[..., Result], system: Any) -> None:
    """As tables with ρ, and as JSON, one device a line."""
    device = DeviceReport(
        device="node-0.cpu0", node="node-0", alive=True, arrival_rate=1.0, service_rate=4.0, utilisation=0.25,
        window=2, in_flight=1, budget_bytes=100, resident_bytes=50,
    )  # fmt: skip
    report = SchedulerReport(
        at=1.0, term=3, policy="completion", live=7, waiting={"interactive": 2, "standard": 0, "batch": 5},
        dispatched=1, devices=[device], held={"window": 4},
    )  # fmt: skip
    system.bodies = {"status": report, "devices": report}
    said = llmos("status").stdout
    for expected in ("live jobs", "held by window", "node-0.cpu0", "0.250", "50 B/100 B", "tasks in flight now"):
        assert expected in said
    assert json.loads(llmos("devices", "--json").stdout)["utilisation"] == 0.25


def test_what_needs_no_system(llmos: Callable[..., Result], tmp_path: Any) -> None:
    """Topics, version, settings and keys."""
    assert {json.loads(line)["name"] for line in llmos("topics", "--json").stdout.splitlines()} >= {"sealed", "results"}
    assert "work.<device>" in llmos("topics").stdout
    assert llmos("version").stdout.startswith("llmos ")
    said = llmos("--set", "worker.slots=3", "config", "show", "--json").stdout
    found = {row["name"]: row for row in map(json.loads, said.splitlines())}
    assert (found["worker.slots"]["value"], found["worker.slots"]["origin"]) == (3, "flag")
    state = ("--state-directory", str(tmp_path / "state"))
    assert "made now" in llmos(*state, "keys", "init").stdout
    assert "already there" in llmos(*state, "keys", "init").stderr
    assert (tmp_path / "state" / "keyring.json").stat().st_mode & 0o077 == 0
    assert "nothing runs" in llmos(*state, "down").stdout


def test_doctor_names_what_is_missing(llmos: Callable[..., Result], tmp_path: Any) -> None:
    """A broker that does not answer and a Java that is none are told, and the exit code says so."""
    names = ("kafka broker", "java")
    for setting, name in zip(("kafka.bootstrap=127.0.0.1:1", f"embedded.java={tmp_path}/java"), names, strict=True):
        said = llmos("--state-directory", str(tmp_path), "--set", setting, "doctor", "--json")
        checks = {check["what"]: check for check in map(json.loads, said.stdout.splitlines())}
        assert said.exit_code == 1
        assert not checks[name]["ok"]
        assert setting.partition("=")[0] in checks[name]["found"]


@pytest.mark.parametrize(
    ("service", "overrides", "instance"),
    [
        (Service.INGEST, {}, None),
        (Service.INGEST, {"instance": {"i": 1, "n": 2}}, "1"),
        (Service.WORKER, {"worker": {"device": "cpu:1/2"}}, "node-0.cpu1"),
    ],
)
def test_a_process_is_named_by_its_share(service: Service, overrides: dict[str, Any], instance: str | None) -> None:
    """A worker by its device, one of several instances by its place."""
    assert instance_of(service, load(**overrides)) == instance


def test_down_waits_for_the_end() -> None:
    """A process that ends is seen to end; one that ignores the signal is not."""
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not end(process.pid, 0.05)
        process.kill()
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        assert end(process.pid, 20.0)


def test_the_command_does_not_load_torch() -> None:
    """A start of the command, and of every service but the worker, is not to pay for it."""
    code = "import sys, llmos.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
