"""Models by name, alias and identity as the catalog says; tokens counted, or estimated where no tokenizer is at hand."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

import llmos
from llmos.pipelines.models import hashing
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.base import Message, encode
from llmos.schemas.catalog import Alias, Model, NodeModels, Quarantined
from llmos.schemas.errors import LlmosError, ModelDamaged
from llmos.schemas.job import error_info
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


def node(name: str, at: float, *identities: str, bad: str = "") -> tuple[str, Message]:
    """The row of a node that has these models, and one in quarantine."""
    error = error_info(ModelDamaged(directory="/m", problem="a hole"))
    quarantined = [Quarantined(name=bad, directory="/m", error=error)] if bad else []
    return f"node:{name}", NodeModels(node=name, at=at, models=list(identities), quarantined=quarantined)


def refusal(rows: list[tuple[str, Message | None]], name: str) -> LlmosError:
    """Why a name stands for nothing."""
    with pytest.raises(LlmosError) as caught:
        directory(*rows).resolve(name)
    return caught.value


ONE, TWO = (A, model(A, "one")), (B, model(B, "two"))
OTHER_ONE = (B, model(B, "one"))
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
        pytest.param([ONE, node("x", 1, A)], "one", A, id="that a node has"),
        pytest.param([ONE, OTHER_ONE, node("x", 1, B)], "one", B, id="of two the one that a node has"),
        pytest.param([ONE, OTHER_ONE, node("x", 1, B), node("y", 2, A)], "one", A, id="the one that was told of last"),
        pytest.param([ONE, OTHER_ONE, node("x", 2, B), node("y", 1, A)], "one", B, id="whatever the order"),
        pytest.param([ONE, OTHER_ONE, node("x", 1, A, B)], "one", A, id="of two on one node the first"),
        pytest.param([ONE, node("x", 1, A, bad="one")], "one", A, id="whole in one directory and damaged in another"),
        pytest.param([ONE, node("x", 2, bad="one"), node("y", 1, A)], "one", A, id="whole on another node"),
    ],
)  # fmt: skip
def test_resolve(rows: list[tuple[str, Message | None]], name: str, identity: str | None) -> None:
    """What a client may call a model, as the catalog changes."""
    if identity is None:
        assert refusal(rows, name).code == "unknown_model"
    else:
        assert directory(*rows).resolve(name).identity == identity


@pytest.mark.parametrize(
    ("rows", "name", "code", "says"),
    [
        pytest.param([node("x", 1, bad="one")], "one", "model_quarantined", "on x and", id="never whole"),
        pytest.param([ONE, node("x", 1, bad="one")], "one", "model_quarantined", "'one'", id="once whole"),
        pytest.param([ONE, BEST, node("x", 1, bad="one")], "best", "model_quarantined", "'best'", id="by an alias"),
        pytest.param([ONE, node("x", 1, bad="one")], A, "model_quarantined", "nowhere whole: a hole;", id="by identity"),
        pytest.param([node("x", 1, bad="one"), node("y", 2, bad="one")], "one", "model_quarantined", "on y and",
                     id="as told of last"),
        pytest.param([ONE, node("x", 1)], "one", "model_gone", "'one'", id="nowhere any more"),
        pytest.param([ONE, BEST, node("x", 1, B)], "best", "model_gone", "'best'", id="an alias of what is gone"),
        pytest.param([node("x", 1, A)], "one", "unknown_model", "'one'", id="never told of"),
    ],
)  # fmt: skip
def test_no_node_has_it_whole(rows: list[tuple[str, Message | None]], name: str, code: str, says: str) -> None:
    """The refusal says whether it is damaged, gone, or was never there."""
    problem = refusal(rows, name)
    assert problem.code == code
    assert says in str(problem)


def test_a_record_that_cannot_be_read_changes_nothing() -> None:
    """Rubbish on the topic leaves the model that was there."""
    found = directory(ONE)
    found.table.take(record(b"\xc1", "catalog", key=A.encode()))
    assert found.resolve("one") == MODEL


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


async def test_tokenizers_follow_the_models_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is put there is counted exactly once it is quiet, and estimated again when it is gone."""
    monkeypatch.setattr(hashing, "RACY_NANOSECONDS", 0)
    store = ModelStore([tmp_path])
    (there,) = (await asyncio.to_thread(ModelStore([SHIPPED / "shakespeare-decoder"]).scan)).models
    found = directory()
    await asyncio.to_thread(found.load_tokenizers, store, 1e-3)
    looks: list[float] = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        exact = found.count(model(there, "a"), ["To be"]).exact
        assert exact == (3 <= len(looks) <= 4)
        if len(looks) == 1:
            await asyncio.to_thread(shutil.copytree, SHIPPED / "shakespeare-decoder", tmp_path / "a")
        elif len(looks) == 4:
            await asyncio.to_thread(shutil.rmtree, tmp_path / "a")
        elif len(looks) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr("llmos.services.verify.directory.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await found.watch_tokenizers(store, 1e-3)
    assert looks == [1e-3] * 5


def test_what_is_written_to_the_catalog_is_believed() -> None:
    """Whoever may write there moves a name to another model that a node has, or has one called gone. What a model is he
    cannot change: a part is bound to the identity, and that is the digest of the model's files."""
    rows: list[tuple[str, Message | None]] = [ONE, TWO, node("n", 1.0, A, B), BEST]
    assert directory(*rows).resolve("best").identity == A
    assert directory(*rows, ("alias:best", Alias(name="best", identity=B))).resolve("best").identity == B
    assert refusal([*rows, ("node:n", NodeModels(node="n", at=2.0, models=[]))], "best").code == "model_gone"
