"""`llmos tenants erase`: what it destroys, what it leaves and for how long, and how it is taken up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.log.port import Out, Place
from tests.unit.cli.tenant_office import Office


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_erase_removes_the_tenant_and_destroys_its_keys(office: Office) -> None:
    """And nothing else; it says what is left, with which keys and until when. Asked twice, it is done."""
    office("add", "acme")
    office("add", "globex")
    assert office("erase", "acme", stdin="n\n").exit_code == 1
    assert office.row() is not None
    (erasure,) = office.objects("erase", "acme", "--yes")
    keys = load_keyring(office.keyring)
    assert office.row() is None
    assert not keys.holds("tenant", "acme")
    assert [entry.id for entry in keys.entries if entry.state == "destroyed"] == erasure["destroyed"]
    assert keys.holds("tenant", "globex")
    open_ = {entry.id for entry in keys.entries if entry.purpose in ("pool", "ingress", "dead")}
    assert {left["key_id"] for left in erasure["left"]} == {*open_, ""}
    assert erasure["gone_at"] == max(left["until"] for left in erasure["left"])
    assert office("erase", "acme", "--yes").exit_code == 78
    assert erasure["credentials_deleted"] == [str(office.directory / "tenants" / "acme.json")]
    assert [path.name for path in (office.directory / "tenants").iterdir()] == ["globex.json"]


def test_erase_deletes_no_credentials_of_another(office: Office) -> None:
    """A file that lies where the tenant's would is told of and stays."""
    office("add", "acme")
    office("add", "globex")
    place = office.directory / "tenants" / "acme.json"
    place.write_bytes((office.directory / "tenants" / "globex.json").read_bytes())
    said = office("erase", "acme", "--yes")
    assert (said.exit_code, "acme.json stays" in said.stderr, place.exists()) == (0, True, True)


def test_what_is_left_is_told_in_days(office: Office) -> None:
    """Weeks in hours nobody reads."""
    office("add", "acme")
    said = office("erase", "acme", "--yes").stdout
    assert "(in 30.0" in said
    assert "(in 7.0" in said
    assert "days)" in said
    assert not re.search(r"in \d\d+\.\d h", said)


def test_an_erasure_that_was_cut_off_is_taken_up(office: Office) -> None:
    """The row is gone, the keys are not."""
    office("add", "acme")
    office.coming.append((Place("tenants", 0), Out(b"acme", None)))
    said = office("erase", "acme", "--yes")
    assert said.exit_code == 0, said.output
    assert not load_keyring(office.keyring).holds("tenant", "acme")
    for word in ("sealed", "llmos keys rotate pool", "results", "nothing of it can be read after"):
        assert word in said.stdout


def test_a_name_that_was_erased_may_come_again_with_a_word(office: Office) -> None:
    """New keys, and a note that the log still has what was clear."""
    office("add", "acme")
    office("erase", "acme", "--yes")
    said = office("add", "acme")
    assert said.exit_code == 0, said.output
    assert "was erased" in said.stderr
    assert load_keyring(office.keyring).holds("tenant", "acme")
