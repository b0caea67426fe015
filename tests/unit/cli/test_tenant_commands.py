"""`llmos tenants`: what operators do with tenants, on the topic, in the keyring and in the files of credentials."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli import key_advice
from llmos.cli.app import app
from llmos.cli.session import Session
from llmos.infra.crypto.credentials import Credentials, load_credentials
from llmos.infra.crypto.keyfile import create_keyring, load_keyring, save_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.rows import names_key, sealed_row
from llmos.infra.crypto.secrets import unwrap_previous, unwrap_secret
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.schemas.base import encode
from llmos.schemas.catalog import TENANTS, Quotas, Tenant
from llmos.schemas.errors import OperatorError
from llmos.schemas.telemetry import LiveCounts
from tests.kit.bench import configured


class Office:
    """A log in memory, a state directory, and the command over both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = MemoryBroker(WallClock())
        self.broker.create(specs(configured()))
        self.keyring = directory / "keyring.json"
        create_keyring(self.keyring)
        self.coming: list[tuple[Place, Out]] = []

    @asynccontextmanager
    async def open_log(self, settings: Settings) -> AsyncIterator[Log]:
        """As `Session.open_log`."""
        log = self.broker.connect("operator")
        for place, out in self.coming:
            await log.emit(place, [out])
        self.coming = []
        try:
            yield log
        finally:
            await log.close()

    def __call__(self, *words: str, stdin: str = "") -> Result:
        line = ["--state-directory", str(self.directory), "tenants", *words]
        return CliRunner().invoke(app, line, input=stdin, obj=Session(open_log=self.open_log))

    def keys(self, *words: str) -> Result:
        """`llmos keys …`"""
        line = ["--state-directory", str(self.directory), "keys", *words]
        return CliRunner().invoke(app, line, obj=Session(open_log=self.open_log))

    def objects(self, *words: str) -> list[dict[str, Any]]:
        """What the command prints with --json."""
        found = self(*words, "--json")
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]

    def row(self, name: str = "acme") -> Tenant | None:
        """The tenant as the topic has it."""
        latest: Tenant | None = None
        for stored in self.broker.dump("tenants")[0]:
            if stored.record.key == name.encode():
                value = stored.record.value
                latest = TENANTS.decode(value) if value is not None else None
        return latest

    def tenant(self, name: str = "acme") -> Tenant:
        found = self.row(name)
        assert found is not None
        return found

    def credentials(self, name: str = "acme") -> Credentials:
        return load_credentials(self.directory / "tenants" / f"{name}.json")

    def secrets_of_all(self) -> list[bytes]:
        """Everything that no output may show."""
        keys = [entry.key for entry in load_keyring(self.keyring).entries if entry.key]
        own = [self.credentials().secret, *(key.private for key in self.credentials().reply_keys)]
        return [*keys, *own, self.tenant().wrapped_secret]


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


def forge(office: Office, **fields: object) -> Tenant:
    """The row as somebody without the system's key writes it."""
    forged = msgspec.structs.replace(office.tenant(), **fields)
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(forged))))
    return forged


def test_what_no_operator_wrote_is_marked_and_never_sealed(office: Office) -> None:
    """Neither shown as the tenant, nor taken up by a change: that is made of the row before."""
    office("add", "acme")
    right = office.tenant()
    forge(office, reply_key=b"another", weight=9.0)
    (shown,) = office.objects("show", "acme")
    assert (shown["seal"], shown["reply_key"]) == ("a later row is refused", right.reply_key.hex())
    assert "no operator" in office("show", "acme").stdout
    assert "later row is refused" in office("list").stdout
    assert office("set", "acme", "--weight", "2").exit_code == 0
    assert (office.tenant().reply_key, office.tenant().weight) == (right.reply_key, 2.0)
    assert office.objects("list")[0]["seal"] == "holds"
    assert office.tenant().version == right.version + 1


def test_a_row_that_no_operator_wrote_is_no_tenant(office: Office) -> None:
    """It can be taken away, and not be changed."""
    office("add", "acme")
    office("add", "globex")
    right = office.tenant()
    office("erase", "acme", "--yes")
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(msgspec.structs.replace(right, weight=9.0)))))
    assert {found["name"]: found["seal"] for found in office.objects("list")} == {"acme": "refused", "globex": "holds"}
    assert "REFUSED" in office("show", "acme").stdout
    for words in (("set", "acme", "--weight", "2"), ("rotate-secret", "acme")):
        said = office(*words)
        assert (said.exit_code, "no operator wrote" in said.stderr) == (78, True)
    assert office("add", "acme", "--out", str(office.directory / "x.json")).exit_code == 78
    assert office("erase", "acme", "--yes").exit_code == 0
    assert office.row() is None


def test_without_the_keyring_nobody_can_tell(office: Office) -> None:
    """The rows are shown as they stand."""
    office("add", "acme")
    office.keyring.unlink()
    assert office.objects("list")[0]["seal"] == "unknown"
    assert "only the keyring can tell" in office("show", "acme").stdout


def test_after_a_rewrap_the_systems_old_key_may_go(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets stay, the one before the last rotation too; before it, destroying is refused."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)
    office("add", "acme")
    office("add", "globex")
    office("rotate-secret", "acme")
    before, keys = office.tenant(), load_keyring(office.keyring)
    old = keys.active("system").id
    secrets = (unwrap_secret(keys, before), unwrap_previous(keys, before))
    save_keyring(keys.rotated("system"), office.keyring)
    said = office.keys("destroy", old, "--yes")
    assert said.exit_code == 78
    assert "acme, globex are under key" in said.stderr
    assert "tenants rewrap" in said.stderr
    assert office.objects("rewrap") == [{"tenants": ["acme", "globex"], "not_opened": []}]
    assert office.keys("destroy", old, "--yes").exit_code == 0
    keys, after = load_keyring(office.keyring), office.tenant()
    assert not keys.has(old)
    assert (unwrap_secret(keys, after), unwrap_previous(keys, after)) == secrets
    assert not names_key(after, old, 0.0)
    assert [found["seal"] for found in office.objects("list")] == ["holds", "holds"]


def test_a_secret_that_does_not_open_is_told_by_a_rewrap(office: Office) -> None:
    """Its row stays as it is, and the exit code says that something was left."""
    office("add", "acme")
    office("add", "globex")
    keys = load_keyring(office.keyring)
    lost = sealed_row(keys, msgspec.structs.replace(office.tenant(), wrapped_secret=bytes(60)))
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(lost))))
    said = office("rewrap")
    assert (said.exit_code, "tenant acme" in said.stderr, "1 tenants" in said.stdout) == (1, True, True)
    assert office.tenant() == lost


def test_without_a_broker_a_key_of_the_system_goes_with_a_word(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can say then whether a row is under it."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)

    def away(settings: Settings) -> AbstractAsyncContextManager[Log]:
        raise OperatorError(problem="no stack runs")

    office.open_log = away  # type: ignore[method-assign, assignment]
    keys = load_keyring(office.keyring)
    save_keyring(keys.rotated("system"), office.keyring)
    said = office.keys("destroy", keys.active("system").id, "--yes")
    assert (said.exit_code, "cannot be told" in said.stderr) == (0, True)


def test_list_shows_all_tenants(office: Office) -> None:
    """By name."""
    for name in ("globex", "acme"):
        office("add", name)
    assert [found["name"] for found in office.objects("list")] == ["acme", "globex"]
    assert "no limit" in office("list").stdout


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
    assert (office.directory / "tenants" / "acme.json").exists()


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
    (office.directory / "tenants" / "acme.json").unlink()
    said = office("add", "acme")
    assert said.exit_code == 0, said.output
    assert "was erased" in said.stderr
    assert load_keyring(office.keyring).holds("tenant", "acme")
