"""A tenant's life with a whole system that runs all the while, as an operator and the tenant type it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.test_cli import llmos
from tests.stack import Stack

pytestmark = pytest.mark.timeout(600)

ME = "newcomer"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A whole system with one worker."""
    async with Stack.start(tmp_path, node={"cpu_devices": 1}) as stack:
        yield stack


async def test_a_tenant_comes_works_and_goes(stack: Stack, tmp_path: Path) -> None:
    """Added, it asks at once; its rights and its secret change under it; erased, it is nobody."""
    file = tmp_path / "me.json"
    as_me = ("--credentials", str(file))
    assert (await llmos(stack, "tenants", "add", ME, "--jobs", "5", "--out", str(file))).code == 0
    said = await llmos(stack, "submit", "echo", "hello", *as_me)
    assert (said.code, said.out) == (0, "hello\n"), said
    assert (await llmos(stack, "submit", "echo", "hello", "--clear", "--json", *as_me)).code == 2

    assert (await llmos(stack, "tenants", "set", ME, "--kind", "embed", "--model", "nothing*")).code == 0
    said = await llmos(stack, "submit", "echo", "hello", "--json", *as_me)
    assert (said.code, said.lines[-1]["error"]["code"]) == (2, "not_allowed"), said
    assert (await llmos(stack, "tenants", "set", ME, "--kind", "all", "--model", "all")).code == 0

    old = tmp_path / "old.json"
    old.write_bytes(file.read_bytes())
    old.chmod(0o600)
    assert (await llmos(stack, "tenants", "rotate-secret", ME, "--reply-key", "--out", str(file))).code == 0
    for credentials in (file, old):
        said = await llmos(stack, "submit", "echo", "again", "--credentials", str(credentials), "--no-wait")
        assert said.code == 0, said
    said = await llmos(stack, "submit", "echo", "again", *as_me)
    assert said.out == "again\n", said

    (shown,) = (await llmos(stack, "tenants", "show", ME, "--json")).lines
    assert shown["quotas"]["jobs"] == 5
    assert shown["use"] is not None
    said = await llmos(stack, "tenants", "erase", ME, "--yes", "--json")
    assert said.lines[0]["destroyed"] == [key["id"] for key in shown["keys"]], said
    assert {left["state"] for left in said.lines[0]["left"]} >= {"active", ""}
    said = await llmos(stack, "submit", "echo", "gone", *as_me)
    assert said.code != 0
    assert "unknown_tenant" in said.err or "no tenant" in said.err, said
    assert (await llmos(stack, "submit", "echo", "others", "--tenant", "acme")).out == "others\n"
