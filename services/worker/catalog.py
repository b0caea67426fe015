"""Which models this node has: found at the start, watched, verified when asked to, told of in `catalog`."""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple

import msgspec
import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Follower, Table
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import Damaged, ModelStore, Scan
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import CATALOG, Model, NodeModels, Quarantined, node_models_key
from llmos.schemas.control import ModelOrder
from llmos.schemas.errors import ModelDamaged, ModelUnavailable
from llmos.schemas.job import error_info

log = structlog.get_logger()

_NO_NAME = re.compile(r"[^A-Za-z0-9._:@/+-]|^[^A-Za-z0-9]")
_NAME_CHARACTERS = 128
_DIRECTORY_CHARACTERS = 2048


TOGETHER_SECONDS = 1.0
"""Workers of one node get an order to verify at about the same time: what one of them read since, the others need not."""


class _Damage(NamedTuple):
    """A model that was found damaged when it was used."""

    identity: str
    problem: str


class _Verification(NamedTuple):
    """An order to verify, and the time from which on a reading counts (Unix seconds, by this machine's clock)."""

    identity: str
    since: float


class ModelWatch:
    """The models of this node. For the event loop; files are read in threads.

    Every worker of a node has one; they share what they find through the store's cache, and write to `catalog` only what
    is not there already.
    """

    def __init__(self, ctx: Context, store: ModelStore) -> None:
        self._ctx = ctx
        self._store = store
        self._seconds = ctx.settings.node.models_watch_seconds
        self._node = ctx.settings.node.name
        self._table = Table(topics.CATALOG, CATALOG)
        self._follower = Follower(ctx, [self._table])
        self._followed: dict[Place, int] = {}
        self._wishes: asyncio.Queue[_Verification | _Damage] = asyncio.Queue()
        self._models: list[str] = []
        self._told_at = 0.0
        """When the last scan was over, in Unix seconds."""
        self._quarantined: dict[str, str] = {}
        """Problem by directory, as last logged."""

    @property
    def models(self) -> list[str]:
        """Identities of the whole models, sorted; changes as directories do."""
        return list(self._models)

    async def start(self) -> list[str]:
        """The first scan; says in `catalog` what is new, and gives the identities.

        Raises:
            BadSetting: a models directory is not there.
        """
        scan = await self._store.in_thread(self._store.scan, self._seconds)
        self._followed = await self._follower.load()
        await self._publish(scan)
        return self.models

    async def run(self) -> None:
        """Watches the directories and does what is asked, until cancelled. Call `start` before."""
        try:
            await run_beside(self._watch(), self._follower.follow(self._followed))
        finally:
            self._store.stop()

    def order(self, order: ModelOrder) -> None:
        """Verifies a model, or all, as soon as what is at hand is done; other orders are not for here. The result is
        the next record of this node in `catalog`."""
        if order.what != "verify":
            return
        # what this worker has told of was read before it was asked, however short that is ago
        since = max(time.time() - TOGETHER_SECONDS, self._told_at)
        self._wishes.put_nowait(_Verification(order.identity, since))

    def damaged(self, identity: str, problem: str) -> None:
        """A model had other bytes when it was loaded than when it was read: it goes into quarantine."""
        self._models = [model for model in self._models if model != identity]
        self._wishes.put_nowait(_Damage(identity, problem))

    async def _watch(self) -> None:
        while True:
            wish = await self._next()
            if isinstance(wish, _Damage):
                await self._publish(await self._store.in_thread(self._store.quarantine, wish.identity, wish.problem))
            elif wish is not None:
                await self._verify(wish)
            elif await self._store.in_thread(self._store.changed):
                await self._publish(await self._store.in_thread(self._store.scan, self._seconds))

    async def _next(self) -> _Verification | _Damage | None:
        """What is asked next; None after the time between two looks."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._wishes.get()
        except TimeoutError:
            return None

    async def _verify(self, wish: _Verification) -> None:
        if wish.identity:
            try:
                await self._store.in_thread(self._store.verify, wish.identity, wish.since)
            except (ModelDamaged, ModelUnavailable) as problem:
                log.warning("model_not_whole", model=wish.identity, problem=str(problem))
            scan = await self._store.in_thread(self._store.scan, self._seconds)
        else:
            scan = await self._store.in_thread(self._store.verify_all, wish.since, self._seconds)
        await self._publish(scan, verified=True)

    async def _publish(self, scan: Scan, verified: bool = False) -> None:
        """Writes to `catalog` what is not there yet; after a verification also what is, since somebody waits for it."""
        self._models = sorted(scan.models)
        self._told_at = time.time()
        self._log(scan.damaged)
        rows = self._table.rows
        models = [model for manifest in scan.models.values() if self._is_news(model := model_of(manifest))]
        outs = [Out(model.identity.encode(), encode(model)) for model in models]
        key = node_models_key(self._node)
        before = rows.get(key.decode())
        now = NodeModels(
            node=self._node,
            at=self._ctx.clock.now(),
            models=self._models,
            quarantined=[_quarantined(damage) for damage in scan.damaged],
            verified_at=scan.read_at
            or (time.time() if verified or not isinstance(before, NodeModels) else before.verified_at),
        )
        if verified or not isinstance(before, NodeModels) or msgspec.structs.replace(before, at=now.at) != now:
            outs.append(Out(key, encode(now)))
        if outs:
            await self._ctx.log.emit(Place(topics.CATALOG, 0), outs)
            log.info("models_published", models=len(self._models), quarantined=len(scan.damaged), records=len(outs))

    def _is_news(self, model: Model) -> bool:
        """Not what the catalog says; a model that another node has keeps the name that it was first given."""
        row = self._table.rows.get(model.identity)
        if not isinstance(row, Model):
            return True
        others = (
            node for node in self._table.rows.values() if isinstance(node, NodeModels) and node.node != self._node
        )
        if any(model.identity in node.models for node in others):
            model = msgspec.structs.replace(model, name=row.name, licence=row.licence)
        return row != model

    def _log(self, damaged: list[Damaged]) -> None:
        now = {str(damage.directory): str(damage.problem) for damage in damaged}
        for directory, problem in now.items():
            if self._quarantined.get(directory) != problem:
                log.error("model_quarantined", directory=directory, problem=problem)
        for directory in self._quarantined.keys() - now.keys():
            log.info("model_out_of_quarantine", directory=directory)
        self._quarantined = now


def model_of(manifest: Manifest) -> Model:
    """A model as the catalog has it."""
    return Model(
        identity=manifest.identity,
        name=manifest.name,
        architecture=manifest.architecture,
        kinds=list(manifest.kinds),
        parameters=manifest.parameters,
        weight_bytes=manifest.weight_bytes,
        context_tokens=manifest.context_tokens,
        width=manifest.hidden_size,
        dtype=manifest.dtype,
        licence=manifest.licence,
        kv_bytes_per_token=manifest.kv_bytes_per_token,
        chat=manifest.chat,
        native=manifest.native,
    )


def _quarantined(damage: Damaged) -> Quarantined:
    """A directory in quarantine, under a name that the catalog can hold."""
    name = _NO_NAME.sub("_", damage.name)[:_NAME_CHARACTERS]
    return Quarantined(
        name=name if name[:1].isalnum() else f"m{name}"[:_NAME_CHARACTERS],
        directory=str(damage.directory)[:_DIRECTORY_CHARACTERS],
        error=error_info(damage.problem),
    )
