"""Models by name, alias and identity as the catalog says; tokens counted, or estimated where no tokenizer is at hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import llmos
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.base import Message, encode
from llmos.schemas.catalog import Alias, Model
from llmos.services.verify.directory import ModelDirectory
from tests.kit.bench import record

A, B = "a" * 64, "b" * 64
MODEL = Model(
    identity=A, name="one", architecture="llama", kinds=["generate"], parameters=1, weight_bytes=1, context_tokens=9,
    dtype="float32",
)  # fmt: skip
SHIPPED = Path(llmos.__file__).parent / "models"


def model(identity: str, name: str) -> Model:
    return msgspec.structs.replace(MODEL, identity=identity, name=name)


def directory(*rows: tuple[str, Message | None]) -> ModelDirectory:
    """A directory that has read these records of `catalog`, in this order."""
    found = ModelDirectory(characters_per_token=3.0)
    for key, message in rows:
        found.table.take(record(encode(message) if message else None, "catalog", key=key.encode()))
    return found


ONE, TWO = (A, model(A, "one")), (B, model(B, "two"))
BEST = ("alias:best", Alias(name="best", identity=A))


@pytest.mark.parametrize(
    ("rows", "name", "identity"),
    [
        pytest.param([], "one", None, id="an empty catalog"),
        pytest.param([ONE, TWO], "one", A, id="by name"),
        pytest.param([ONE, TWO], B, B, id="by identity"),
        pytest.param([ONE], "tw", None, id="not by half a name"),
        pytest.param([ONE, BEST], "best", A, id="by alias"),
        pytest.param([BEST, ONE], "best", A, id="an alias that came before its model"),
        pytest.param([BEST], "best", None, id="an alias of nothing"),
        pytest.param([ONE, TWO, BEST, ("alias:best", Alias(name="best", identity=B))], "best", B, id="moved"),
        pytest.param([ONE, BEST, ("alias:best", None)], "best", None, id="an alias that was removed"),
        pytest.param([ONE, BEST, (A, None)], "best", None, id="of a model that was removed"),
        pytest.param([ONE, (A, None)], "one", None, id="a model that was removed"),
        pytest.param([ONE, TWO, ("alias:one", Alias(name="one", identity=B))], "one", B, id="an alias goes before a name"),
        pytest.param([ONE, (B, model(B, "one"))], "one", A, id="of two with one name the first"),
        pytest.param([ONE, (B, model(B, "one")), (A, None)], "one", B, id="and then the other"),
        pytest.param([ONE, BEST], "alias:best", None, id="a key of the topic is no name"),
        pytest.param([ONE, BEST, ("alias:top", Alias(name="top", identity="best"))], "top", None, id="no alias of an alias"),
    ],
)  # fmt: skip
def test_find(rows: list[tuple[str, Message | None]], name: str, identity: str | None) -> None:
    """What a client may call a model, as the catalog changes."""
    found = directory(*rows).find(name)
    assert (found.identity if found else None) == identity


def test_a_record_that_cannot_be_read_changes_nothing() -> None:
    """Rubbish on the topic leaves the model that was there."""
    found = directory(ONE)
    found.table.take(record(b"\xc1", "catalog", key=A.encode()))
    assert found.find("one") == MODEL


def test_tokens_are_estimated_without_a_tokenizer() -> None:
    """So many characters a token, rounded up, and said to be an estimate."""
    counted = directory(ONE).count(MODEL, ["", "a", "abc", "abcd", "x" * 300])
    assert (list(counted.tokens), counted.exact) == ([0, 1, 1, 2, 100], False)


def test_tokens_are_counted_with_the_models_own_tokenizer() -> None:
    """A model whose files are here is counted exactly, as its tokenizer encodes; another is still estimated."""
    store = ModelStore([SHIPPED])
    found = directory()
    found.load_tokenizers(store)
    (identity,) = [m.identity for m in store.scan().models.values() if m.name == "shakespeare-decoder"]
    texts = ["To be, or not to be", "x" * 30]
    counted = found.count(model(identity, "shakespeare-decoder"), texts)
    assert counted.exact
    assert list(counted.tokens) != [7, 10]
    assert not found.count(model(B, "two"), texts).exact
