"""`llmos usage`: receipts on a topic or in a file are summed and checked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli.app import OPERATOR, app
from llmos.cli.session import Session
from llmos.cli.usage import Saved
from llmos.infra.crypto.credentials import PublicKey
from llmos.infra.crypto.receipts import signed
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.schemas.results import USAGE, Receipt
from tests.kit.bench import KEYS, NOW, HandClock, configured
from tests.unit.cli.test_usage import receipt

PUBLIC = [PublicKey(id=e.id, purpose="receipt", key=e.public) for e in KEYS.entries if e.purpose == "receipt"]


def true(s: int = 0, **fields: Any) -> bytes:
    """A record as the aggregator writes it."""
    return signed(KEYS, receipt(s, **fields))


def forged(s: int = 0, **fields: Any) -> bytes:
    """A true one in which somebody has written other numbers."""
    found: Receipt = USAGE.decode(true(s))
    return msgspec.msgpack.encode(msgspec.structs.replace(found, **fields))


class Office:
    """A log in memory with receipts on it, and the command over it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = HandClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.create(specs(configured()))
        self.records: list[tuple[int, bytes]] = []

    def put(self, *values: bytes, partition: int = 0) -> None:
        """On the topic with the next command."""
        self.records += [(partition, value) for value in values]

    @asynccontextmanager
    async def open_log(self, settings: Settings) -> AsyncIterator[Log]:
        """As `Session.open_log`."""
        log = self.broker.connect("operator")
        for partition, value in self.records:
            await log.emit(Place("usage", partition), [Out(None, value)])
        self.records = []
        yield log
        await log.close()

    def __call__(self, *words: str) -> Result:
        line = ["--state-directory", str(self.directory), "usage", *words]
        return CliRunner().invoke(app, line, obj=Session(open_log=self.open_log))

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """What it prints with --json."""
        found = self(*words, "--json")
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    (tmp_path / "public-keys.json").write_bytes(msgspec.json.encode(PUBLIC))
    return Office(tmp_path)


def test_all_partitions_are_summed(office: Office) -> None:
    """By tenant, if nothing else is asked for; what is no receipt is told of and does no harm."""
    office.put(true(0), true(1, tenant="globex"), b"\xc1")
    office.put(true(0, partition=1), partition=1)
    found = office.rows()
    assert [(row["tenant"], row["answers"], row["tokens_out"]) for row in found] == [("acme", 2, 6), ("globex", 1, 3)]
    assert "1 records are no receipts" in office("--json").stderr
    assert [row["answers"] for row in office.rows("--partition", "1")] == [1]


def test_an_empty_system_has_an_empty_sum(office: Office) -> None:
    """No row, no error."""
    assert office.rows() == []
    assert office("--check").exit_code == 0


def test_people_see_a_table(office: Office) -> None:
    """With the sum of all below."""
    office.put(true(0), true(1, tenant="globex", model="", status="refused"))
    shown = office("--by", "tenant", "--by", "model").stdout
    assert "abababababab " in shown
    assert [line.split()[0] for line in shown.splitlines() if line.strip()][-3:] == ["acme", "globex", "all"]


def test_csv_has_the_same_numbers(office: Office) -> None:
    """One line a row, names in the first, base units."""
    office.put(true(0), true(1))
    rows = list(csv.DictReader(io.StringIO(office("--csv", "--by", "kind").stdout)))
    assert [(row["kind"], row["answers"], row["device_seconds"]) for row in rows] == [("generate", "2", "0.2")]


def test_since_and_until_mean_when_the_answer_was_written(office: Office) -> None:
    """By the log's clock."""
    office.put(true(0))
    office()
    office.clock.at = NOW + 100
    office.put(true(1), true(2))
    office()
    date = "2023-11-14T22:14:00+00:00"  # NOW + 40
    assert [row["answers"] for row in office.rows("--since", date)] == [2]
    assert [row["answers"] for row in office.rows("--until", date)] == [1]
    assert [row["answers"] for row in office.rows("--tenant", "globex")] == []
    assert office("--since", "tomorrow").exit_code == 2


def test_true_receipts_pass(office: Office) -> None:
    """With the keys that the first start wrote for everyone."""
    office.put(true(0), true(1))
    found = office("--check")
    assert (found.exit_code, "all 2 receipts are as they were signed" in found.stderr) == (0, True)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(forged(5, tenant="globex"), id="other numbers"),
        pytest.param(msgspec.msgpack.encode(receipt(5)), id="not signed"),
        pytest.param(true(5, partition=1), id="from another partition"),
    ],
)
def test_what_is_not_as_it_was_signed_is_told_and_not_counted(office: Office, wrong: bytes) -> None:
    """Which one, and the command fails."""
    office.put(true(0), wrong)
    found = office("--check", "--json")
    assert found.exit_code == OPERATOR
    rows, error = map(json.loads, found.stdout.splitlines())
    assert (rows["answers"], error["error"]["code"]) == (1, "receipt_forged")
    assert "1 of 2 receipts" in found.stderr
    assert found.stderr.count("usage[0] offset 1") == 1


def test_a_receipt_twice_is_one_bill(office: Office) -> None:
    """A copy is as well signed as the original."""
    office.put(true(0), true(0))
    found = office("--check", "--json")
    assert json.loads(found.stdout)["answers"] == 1
    assert "more than once" in found.stderr


def test_anyone_checks_a_file(office: Office, tmp_path: Path) -> None:
    """What was saved is summed and checked without the system, by the public keys alone; a change in it is seen."""
    office.put(true(0), true(1, tenant="globex"))
    file, keys = tmp_path / "receipts.jsonl", tmp_path / "keys.json"
    assert office("--save", str(file)).exit_code == 0
    keys.write_bytes(msgspec.json.encode(PUBLIC))
    elsewhere = Office(tmp_path / "elsewhere")
    words = ["--file", str(file), "--check", "--public-keys", str(keys)]
    assert [row["tenant"] for row in elsewhere.rows(*words)] == ["acme", "globex"]
    lines = file.read_bytes().splitlines()
    changed = msgspec.structs.replace(msgspec.json.decode(lines[0], type=Saved), record=forged(0, tenant="x"))
    file.write_bytes(msgspec.json.encode(changed) + b"\n" + lines[1] + b"\n")
    assert elsewhere(*words).exit_code == OPERATOR


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--partition", "9"], "partitions 0 to 1"),
        (["--file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--check", "--public-keys", "nowhere.json"], "llmos keys export"),
    ],
)
def test_what_is_not_there_is_said(office: Office, words: list[str], says: str) -> None:
    """As an error for the operator."""
    found = office(*words)
    assert (found.exit_code, says in found.stderr) == (OPERATOR, True), found.output


def test_keys_of_another_kind_check_nothing(office: Office, tmp_path: Path) -> None:
    """A file without a key for receipts is a mistake, and not a reason to call them all forged."""
    path = tmp_path / "ingress.json"
    path.write_bytes(msgspec.json.encode([PublicKey(id="ab", purpose="ingress", key=b"k")]))
    found = office("--check", "--public-keys", str(path))
    assert (found.exit_code, "no key that checks receipts" in found.stderr) == (OPERATOR, True)
