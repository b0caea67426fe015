"""`llmos tenants`: what operators do with tenants, on the topic, in the keyring and in the files of credentials."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from llmos.infra.crypto.credentials import load_credentials
from llmos.infra.crypto.keyfile import load_keyring, save_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import unwrap_previous, unwrap_secret
from llmos.infra.log.port import Out, Place
from llmos.schemas.base import encode
from llmos.schemas.catalog import Alias, Model, Quotas
from llmos.schemas.telemetry import LiveCounts
from tests.unit.cli.tenant_office import Office


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_add_writes_a_row_a_key_and_credentials(office: Office) -> None:
    """The secret opens with the keyring, the file is its owner's alone, the tenant has a key of its own."""
    said = office("add", "acme", "--weight", "2", "--jobs", "5", "--lanes", "interactive,batch", "--note", "a customer")
    assert said.exit_code == 0, said.output
    tenant, credentials = office.tenant(), office.credentials()
    assert unwrap_secret(load_keyring(office.keyring), tenant) == credentials.secret
    assert (tenant.weight, tenant.quotas, tenant.lanes) == (2.0, Quotas(jobs=5), ["interactive", "batch"])
    assert (tenant.plaintext, tenant.mac) == ("forbid", "required")
    assert load_keyring(office.keyring).holds("tenant", "acme")
    path = office.directory / "tenants" / "acme.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in said.stdout
    assert {key.purpose for key in credentials.system_keys} == {"ingress", "receipt"}
    assert list(path.parent.iterdir()) == [path]


def test_the_credentials_go_where_they_are_wanted(office: Office, tmp_path: Path) -> None:
    """And replace no file."""
    out = tmp_path / "elsewhere.json"
    assert office("add", "acme", "--hybrid", "--out", str(out)).exit_code == 0
    assert load_credentials(out).reply_keys[0].algorithm == "mlkem768-x25519"
    again = office("add", "globex", "--out", str(out))
    assert again.exit_code == 78
    assert office.row("globex") is None


@pytest.mark.parametrize("name", ["acme", "acme.eu", "operator"])
def test_a_taken_name_is_refused(office: Office, name: str) -> None:
    """Also one that begins or continues another; nothing is written."""
    office("add", "acme")
    before = office.tenant()
    said = office("add", name, "--out", str(office.directory / "x.json"))
    assert said.exit_code == 78
    assert "choose another" in said.stderr
    assert office.tenant() == before
    assert not (office.directory / "x.json").exists()


@pytest.mark.parametrize(
    "more", [(), ("--lane", "fast"), ("--weight", "0"), ("--kind", "ecko"), ("--out", "/nowhere/x")]
)
def test_a_taken_name_is_told_before_anything_else(office: Office, more: tuple[str, ...]) -> None:
    """Also before its credentials, which are there already."""
    office("add", "acme")
    said = office("add", "acme", *more, "--json")
    assert json.loads(said.stdout)["error"]["code"] == "tenant_taken"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--lane", "interactive,fast"), "there is no lane 'fast'; there are interactive, standard, batch"),
        (("--kind", "ecko"), "there is no kind 'ecko'; there are generate, embed, echo"),
        (("--kind", "all,echo"), "`all` stands alone"),
        (("--model", "tiny*,"), "nothing between two commas"),
        (("--weight", "0"), "weight must be above 0"),
        (("--jobs", "-1"), "cannot be used: jobs must be at least 0"),
        (("--reply-prefix", "reply acme"), "reply_prefixes[0] has a character"),
        (("--default-timeout", "2e6"), "default_timeout must be at most 86400"),
    ],
)
def test_slips_are_told_and_change_nothing(office: Office, words: tuple[str, ...], problem: str) -> None:
    """In words, and by `add` as by `set`."""
    office("add", "acme")
    before = office.tenant()
    for command in (("set", "acme"), ("add", "globex")):
        said = office(*command, *words)
        assert (said.exit_code, problem in said.stderr, "Expected" in said.stderr) == (78, True, False), said.stderr
    assert (office.tenant(), office.row("globex")) == (before, None)
    assert "a name has 1 to 64 characters" in office("add", "Acme").stderr


def test_a_pattern_that_means_no_model_is_told(office: Office) -> None:
    """It may be of one that comes; those that mean one are not."""
    model = Model(identity="ab" * 32, name="tiny", architecture="a", kinds=[], parameters=1, weight_bytes=1, context_tokens=1, dtype="f")  # fmt: skip
    alias = Alias(name="small", identity="ab" * 32)
    office.coming += [(Place("catalog", 0), Out(key, encode(row))) for key, row in ((b"a", model), (b"b", alias))]
    said = office("add", "acme", "--model", "tin*", "--model", "small", "--model", "huge*")
    assert (said.exit_code, "--model huge*: there is no such model" in said.stderr) == (0, True)
    assert "tin*" not in said.stderr
    assert "small" not in said.stderr
    assert "--model x*" in office("set", "acme", "--model", "x*").stderr


@pytest.mark.parametrize(
    "words", [("add", "Acme"), ("add", "acme", "--weight", "0"), ("set", "nobody", "--weight", "2"), ("show", "nobody"), ("set", "acme")]
)  # fmt: skip
def test_what_cannot_be_is_said(office: Office, words: tuple[str, ...]) -> None:
    """One line, the exit code of operators."""
    said = office(*words)
    assert said.exit_code == 78
    assert said.stderr.startswith("llmos: ")
    assert office.row() is None


@pytest.mark.parametrize("words", [("add", "acme"), ("set", "acme", "--weight", "2"), ("rotate-secret", "acme"), ("erase", "acme", "--yes")])  # fmt: skip
@pytest.mark.parametrize("missing", [True, False])
def test_without_the_system_s_keyring_nothing_goes(office: Office, words: tuple[str, ...], missing: bool) -> None:
    """It is not there, or others may read it."""
    if missing:
        office.keyring.unlink()
    else:
        office.keyring.chmod(0o644)
    said = office(*words)
    assert said.exit_code == 78
    assert "keyring" in said.stderr


def test_another_system_s_keyring_makes_no_tenant(office: Office) -> None:
    """It opens no secret that is there."""
    office("add", "acme")
    save_keyring(Keyring.memory(), office.keyring)
    for words in (("add", "globex"), ("rotate-secret", "acme"), ("erase", "acme", "--yes")):
        said = office(*words)
        assert said.exit_code == 78
        assert "not the one" in said.stderr
    assert office.row("globex") is None
    assert office.row() is not None


def test_set_changes_what_is_named(office: Office) -> None:
    """A restriction is taken away by `all`, a quota by 0; secrets and keys stay."""
    office("add", "acme", "--model", "tiny*", "--kind", "echo", "--kind", "embed", "--bytes", "100", "--jobs", "3")
    before = office.tenant()
    assert (before.models, before.kinds) == (["tiny*"], ["echo", "embed"])
    said = office("set", "acme", "--models", "all", "--kinds", "generate", "--bytes", "0", "--plaintext", "allow")
    assert said.exit_code == 0, said.output
    after = office.tenant()
    assert (after.models, after.kinds, after.quotas, after.plaintext) == ([], ["generate"], Quotas(jobs=3), "allow")
    assert (after.wrapped_secret, after.reply_key, after.made_at) == (before.wrapped_secret, before.reply_key, before.made_at)  # fmt: skip


def test_rotation_leaves_the_old_secret_for_a_while(office: Office) -> None:
    """The credentials are replaced and keep their reply keys."""
    office("add", "acme")
    before, row = office.credentials(), office.tenant()
    said = office("rotate-secret", "acme", "--grace", "60")
    assert said.exit_code == 0, said.output
    after, tenant, keys = office.credentials(), office.tenant(), load_keyring(office.keyring)
    assert after.secret != before.secret
    assert (unwrap_secret(keys, tenant), unwrap_previous(keys, tenant)) == (after.secret, before.secret)
    assert (after.reply_keys, tenant.reply_key) == (before.reply_keys, row.reply_key)
    assert office("rotate-secret", "acme", stdin="n\n").exit_code == 1  # the grace of the first would end
    assert office.credentials() == after
    assert office("rotate-secret", "acme", "--reply-key", "--yes").exit_code == 0
    last = office.credentials()
    assert last.reply_keys[1:] == after.reply_keys
    assert last.reply_keys[0].public == office.tenant().reply_key


def test_rotation_stops_where_the_credentials_of_before_are_not(office: Office, tmp_path: Path) -> None:
    """The new ones would lack what those open; it says how to name them, and writes nothing."""
    out = tmp_path / "moved.json"
    office("add", "acme")
    (office.directory / "tenants" / "acme.json").rename(out)
    before = office.tenant()
    said = office("rotate-secret", "acme")
    assert (said.exit_code, "--out FILE" in said.stderr, "--new-file" in said.stderr) == (78, True, True)
    assert office.tenant() == before
    assert office("rotate-secret", "acme", "--out", str(tmp_path / "typo.json")).exit_code == 78
    assert office("rotate-secret", "acme", "--out", str(out)).exit_code == 0
    assert len(load_credentials(out).previous_secrets) == 1
    assert office("rotate-secret", "acme", "--out", str(out), "--new-file", "--yes").exit_code == 78
    said = office("rotate-secret", "acme", "--new-file", "--yes")
    assert (said.exit_code, "lack the secrets of before" in said.stderr) == (0, True)
    assert office.credentials().previous_secrets == office.credentials().reply_keys == []


def test_a_new_reply_key_says_that_it_has_no_grace(office: Office) -> None:
    """In its help, and when it is made; a secret alone does not."""
    office("add", "acme")
    assert "no grace" not in office("rotate-secret", "acme").stderr
    for more in (("--reply-key",), ("--hybrid",), ("--reply-key", "--json")):
        assert "has no grace" in office("rotate-secret", "acme", "--yes", *more).stderr
    assert "without a grace" in " ".join(office("rotate-secret", "--help").stdout.replace("│", " ").split())


def test_credentials_of_another_are_not_replaced(office: Office) -> None:
    """A slip of the file's name."""
    office("add", "acme")
    office("add", "globex")
    said = office("rotate-secret", "acme", "--out", str(office.directory / "tenants" / "globex.json"))
    assert said.exit_code == 78
    assert office.credentials("globex").tenant == "globex"


def test_no_output_shows_a_secret(office: Office) -> None:
    """Neither tables nor JSON, neither raw nor as text."""
    outputs = [office("add", "acme"), office("list"), office("show", "acme"), office("set", "acme", "--weight", "2")]
    outputs += [office(*words, "--json") for words in (("list",), ("show", "acme"), ("set", "acme", "--weight", "3"))]
    outputs += [office("rotate-secret", "acme"), office("rotate-secret", "acme", "--yes", "--json")]
    shown = "".join(output.output for output in outputs)
    assert office.tenant().fingerprint.hex()[:16] in office("show", "acme").stdout
    for secret in office.secrets_of_all():
        assert secret.hex() not in shown
        assert json.dumps(secret.hex())[1:20] not in shown


def test_show_tells_rights_keys_and_use(office: Office) -> None:
    """What is in flight is the scheduler's last word, where there is no ledger."""
    office("add", "acme", "--tokens-per-second", "100")
    assert office.objects("show", "acme")[0]["use"] is None
    for jobs in (1, 2):
        counts = LiveCounts(at=1.0, term=1, lanes={}, tenants={"acme": (jobs, 2048)})
        office.coming.append((Place("telemetry", 0), Out(b"scheduler", encode(counts))))
    (shown,) = office.objects("show", "acme")
    assert (shown["use"]["jobs"], shown["use"]["bytes"]) == (2, 2048)
    assert shown["quotas"]["tokens_per_second"] == 100.0
    assert [key["state"] for key in shown["keys"]] == ["active"]
    text = office("show", "acme").stdout
    for word in ("2 jobs, 2.0 KiB", "tokens a second", "reply.acme.", "forbid"):
        assert word in text


def test_list_shows_all_tenants(office: Office) -> None:
    """By name."""
    for name in ("globex", "acme"):
        office("add", name)
    assert [found["name"] for found in office.objects("list")] == ["acme", "globex"]
    assert "no limit" in office("list").stdout
