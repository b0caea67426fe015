"""Tables of models: the catalog, one model, what is in quarantine."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from llmos.cli.catalog import Catalog
from llmos.cli.tables import table, yes
from llmos.cli.units import UNKNOWN, at_time, size
from llmos.schemas.catalog import Model
from llmos.schemas.telemetry import DeviceReport


def models(catalog: Catalog) -> Table:
    """The catalog."""
    return table(
        "models",
        (
            *("name", "identity", "architecture", "kinds", "parameters", "weights", "dtype", "context", "licence"),
            *("aliases", "resident", "pinned", "state"),
        ),
        [
            (
                model.name,
                model.identity[:12],
                model.architecture,
                ", ".join(model.kinds),
                f"{model.parameters:,}",
                size(model.weight_bytes),
                model.dtype,
                model.context_tokens,
                model.licence or UNKNOWN,
                ", ".join(catalog.aliases_of(model.identity)),
                ", ".join(sorted(catalog.resident.get(model.identity, []))),
                ", ".join(_where(catalog.pinned(model.identity))),
                # why it is in quarantine has a table of its own below
                catalog.problem(model).partition(":")[0] or "usable",
            )
            for model in sorted(catalog.models, key=lambda model: (model.name, model.identity))
        ],
    )


def quarantine(catalog: Catalog) -> Table:
    """What nodes have put in quarantine, and why."""
    return table(
        "in quarantine",
        ("name", "node", "directory", "why"),
        [(entry.name, node, entry.directory, entry.error.message) for node, entry in catalog.quarantined()],
    )


def model(catalog: Catalog, found: Model) -> Table:
    """All that is known of one model."""
    rows: list[tuple[str, object]] = [
        ("name", found.name),
        ("identity", found.identity),
        ("architecture", found.architecture),
        ("runs on", "an engine of llmos" if found.native else "the slower engine of transformers"),
        ("kinds", ", ".join(found.kinds)),
        ("parameters", f"{found.parameters:,}"),
        ("weights", f"{size(found.weight_bytes)} of {found.dtype}"),
        ("context", f"{found.context_tokens} tokens"),
        ("keys and values", f"{size(found.kv_bytes_per_token)} a token" if found.kv_bytes_per_token else UNKNOWN),
        ("width", found.width or UNKNOWN),
        ("takes messages", yes(found.chat)),
        ("licence", found.licence or UNKNOWN),
        ("aliases", ", ".join(catalog.aliases_of(found.identity)) or UNKNOWN),
        ("nodes", ", ".join(catalog.nodes_with(found.identity)) or UNKNOWN),
        ("pinned", ", ".join(_where(catalog.pinned(found.identity))) or UNKNOWN),
        ("state", catalog.problem(found) or "usable"),
    ]
    return table("", ("what", "value"), rows)


def _where(devices: Sequence[str]) -> list[str]:
    """Devices in words."""
    return ["every device" if device == "*" else device for device in devices]


def residents_of(identity: str, devices: Sequence[DeviceReport], now: float) -> Table:
    """Where one model is resident."""
    return table(
        "resident",
        ("device", "state", "tier", "bytes", "expected", "load s", "active", "pinned", "last used"),
        [
            (
                device.device,
                resident.state,
                resident.tier,
                size(resident.resident_bytes),
                size(resident.estimated_bytes) if resident.estimated_bytes else UNKNOWN,
                f"{resident.load_seconds:.2f}",
                resident.active,
                yes(resident.pinned),
                at_time(resident.last_used_at, now),
            )
            for device in devices
            for resident in device.residents
            if resident.model == identity
        ],
    )
