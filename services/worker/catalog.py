"""Says in `catalog` which models this node has."""

from __future__ import annotations

import asyncio

import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Model

log = structlog.get_logger()


async def publish_models(ctx: Context, store: ModelStore) -> list[str]:
    """Scans the models directories and says in `catalog` what is there; gives the identities."""
    scan = await asyncio.to_thread(store.scan)
    for directory, problem in scan.damaged:
        log.error("model_damaged", directory=str(directory), problem=str(problem))
    records = [Out(identity.encode(), encode(_model(manifest))) for identity, manifest in sorted(scan.models.items())]
    if records:
        await ctx.log.emit(Place(topics.CATALOG, 0), records)
    return sorted(scan.models)


def _model(manifest: Manifest) -> Model:
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
    )
