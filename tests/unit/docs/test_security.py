"""What the page on security says is held by tests, and those tests are there."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from llmos.infra.crypto.roles import ROLES

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LINK = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
WHO = re.search(r"^## Who can do what\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
assert WHO is not None
STATEMENTS = re.findall(r"^- (.*)$", WHO[1], re.MULTILINE)


@lru_cache
def functions(file: str) -> frozenset[str]:
    """The test functions in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(node.name for node in found if node.name.startswith("test_"))


@pytest.mark.parametrize(("file", "name"), sorted(set(LINK.findall(PAGE))))
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    """Under that name, in that file."""
    assert (ROOT / file).is_file(), f"docs/security.md names {file}, which there is not"
    assert name in functions(file), f"docs/security.md names {file}::{name}, which there is not"


def test_every_statement_names_its_test() -> None:
    """What somebody can or cannot do is said together with what shows it."""
    assert len(STATEMENTS) > 40
    refers = [one for one in STATEMENTS if not LINK.search(one)]
    assert refers == ["with read rights on shared topics, all that somebody who reads the broker can"]


def test_every_section_says_both() -> None:
    """Whoever it is about: what he cannot do, and what he can."""
    sections = re.split(r"^### .*$", WHO[1] if WHO else "", flags=re.MULTILINE)[1:]
    assert len(sections) >= 8
    assert all(re.search(r"^Cannot:$.*^Can:$", section, re.MULTILINE | re.DOTALL) for section in sections)


def test_the_keys_of_each_service_are_those_of_its_role() -> None:
    """The table of the page is the table of the code."""
    rows = re.findall(r"^\| (\w+) \| ([`\w, ]*)\| ([`\w, ]*)\|$", PAGE, re.MULTILINE)
    said = {row[0]: tuple(tuple(re.findall(r"`(\w+)`", names)) for names in row[1:]) for row in rows if row[0] in ROLES}
    assert said == {service: (role.secret, role.checked) for service, role in ROLES.items()}


def test_links_within_the_page_lead_somewhere() -> None:
    """Headings are what they are linked by."""
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
    assert all((ROOT / "docs" / target).exists() for target in re.findall(r"\]\(([\w./]+\.md)\)", PAGE))
