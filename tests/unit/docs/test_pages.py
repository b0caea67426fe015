"""The generated pages of `docs/` say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmos.cli import pages
from llmos.infra.settings import load
from llmos.infra.settings.environment import environment_of
from llmos.schemas import states
from llmos.schemas.topics import TABLE
from tests.unit.schemas.catalogue import errors_of_ours, messages, tag, values

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_committed_page_is_what_the_code_gives(name: str) -> None:
    """A change of settings, errors, topics, states or messages brings its page."""
    assert (DOCS / name).read_text(encoding="utf-8") == pages.PAGES[name](), (
        f"docs/{name} is out of date: run `python -m llmos.cli.pages` at the root of the repository"
    )


def test_every_setting_is_on_its_page() -> None:
    """With its name in the environment and its default, as the tree gives them down to a child."""
    page = pages.configuration()
    given = environment_of(load(keyring_file="none", telemetry={"log_file": "none"}, embedded={"java": "none"}))
    given["LLMOS_EMBEDDED__JARS_DIRECTORY"] = "none"
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(LLMOS_[A-Z_]+)` \| .* \| (\S+) \| \S.* \|$", page, re.MULTILINE)
    assert {variable for _, variable, _ in rows} == set(given)
    for name, variable, default in rows:
        assert variable == "LLMOS_" + name.replace(".", "__").upper()
        said = default.strip("`")
        assert said == given[variable] or float(said) == float(given[variable]) if given[variable] else said == "empty"


def test_every_error_code_is_on_its_page_once() -> None:
    """With its class, and no braces left that only Python reads."""
    page = pages.error_codes()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (yes|no) \| (.+) \|$", page, re.MULTILINE)
    assert {(code, name, retry == "yes") for code, name, retry, _ in rows} == {
        (kind.code, kind.__name__, kind.retryable) for kind in errors_of_ours()
    }
    assert len(rows) == len(errors_of_ours())
    assert not re.search(r"\{\w+[!:]", page)


def test_every_message_and_value_is_on_its_page() -> None:
    """Under its own heading, with its type and a row for each field; what the table of topics links to is there."""
    page = "\n".join(pages.messages())
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == {kind.__name__ for kind in [*messages(), *values()]}
    for kind in messages():
        assert f"`type`: `{tag(kind)}`" in sections[kind.__name__]
    for kind in [*messages(), *values()]:
        assert re.findall(r"^\| `(\w+)` \|", sections[kind.__name__], re.MULTILINE) == list(kind.__struct_fields__)
    anchors = {f"#{heading.lower()}" for heading in sections}
    assert set(re.findall(r"messages\.md(#\w+)", pages.topics())) <= anchors
    assert set(re.findall(r"\]\((#\w+)\)", page)) <= anchors


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("tenant", "text (1 to 64 characters) matching `[a-z0-9][a-z0-9._-]*` | required |"),
        ("priority", "integer from 0 to 9 | 4 |"),
        ("timeout", "number above 0 to 86,400 | 600 |"),
        ("crc32c", "integer from 0 to 2³² − 1 or nil | nil | CRC32C of `payload`. |"),
        ("job_id", "bytes (16) | required |"),
        ("prompt", "text (at most 1,048,576 characters) or list (1 to 1,024) of text (at most 1,048,576 characters) |"),
        ("lanes", "map from `batch`, `interactive`, `standard` to array of integer from 0 to 2⁵³, integer"),
        ("input", "any value | empty |"),
        ("devices", "list of [DeviceReport](#devicereport) | empty |"),
    ],
)
def test_types_and_bounds_are_told_in_words(row: str, text: str) -> None:
    """Kind, bounds, default and docstring of a field."""
    assert f"| `{row}` | {text}" in "\n".join(pages.messages())


def test_topics_and_states_are_drawn_from_their_tables() -> None:
    """A row for each topic, an arrow for each change of state."""
    rows = re.findall(r"^\| `([^`]+)` \|", pages.topics(), re.MULTILINE)
    assert rows == [topic.name for topic in TABLE]
    assert "| `usage` | job id | N | 90 days |" in pages.topics()
    assert "| `catalog` | identity, alias, node, pin | one | compacted |" in pages.topics()
    arrows = sum(
        max(len(following), 1) for table in (states.JOB, states.TASK, states.RESIDENCY) for following in table.values()
    )
    assert pages.state_machines().count(" --> ") == arrows + 3


def test_pages_are_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` tells what is missing or old and writes nothing; without it all is written where `docs/` is."""
    monkeypatch.chdir(tmp_path)
    assert pages.main([]) == 1
    assert "root of the repository" in capsys.readouterr().err
    assert pages.main(["--chekc"]) == 2
    (tmp_path / "docs").mkdir()
    assert pages.main(["--check"]) == 1
    assert list((tmp_path / "docs").iterdir()) == []
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0
    capsys.readouterr()
    (tmp_path / "docs/states.md").write_text("old")
    assert pages.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/states.md is out of date: run `python -m llmos.cli.pages`\n"
