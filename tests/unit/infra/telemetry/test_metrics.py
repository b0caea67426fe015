"""Metrics: the names are a promise, and all are shown."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from llmos.infra.telemetry import metrics

NAMES = {
    "llmos_model_loads": ("device", "outcome"),
    "llmos_model_load_seconds": ("device",),
    "llmos_model_load_estimate_error_ratio": ("device",),
    "llmos_model_waits": ("device", "rule"),
    "llmos_records": ("service", "outcome"),
    "llmos_record_seconds": ("service",),
    "llmos_answers": ("status",),
    "llmos_answer_seconds": ("lane",),
    "llmos_first_token_seconds": ("lane",),
    "llmos_dead_letters": ("stage", "code"),
    "llmos_refusals": ("stage", "code"),
    "llmos_control_refused": ("service", "why"),
    "llmos_tenant_rows_refused": ("why",),
    "llmos_envelopes_rejected": ("channel",),
    "llmos_keyrings_refused": ("why",),
    "llmos_sealed_without_tenant_key": (),
    "llmos_in_flight": ("lane",),
    "llmos_in_flight_bytes": ("lane",),
    "llmos_waiting": ("lane",),
    "llmos_ledger_away": (),
    "llmos_ledger_holds": ("lane",),
    "llmos_ledger_leases": ("device",),
    "llmos_ledger_window": ("device", "kind"),
    "llmos_ledger_refused_leases": (),
    "llmos_ledger_unknown_releases": (),
    "llmos_ledger_rebuilt": (),
    "llmos_utilisation": ("device",),
    "llmos_arrival_rate": ("device",),
    "llmos_service_rate": ("device",),
    "llmos_resident_bytes": ("device",),
    "llmos_tokens": ("device", "direction"),
    "llmos_backlog_records": ("topic", "partition"),
    "llmos_backlog_retention_fraction": ("topic", "partition"),
    "llmos_loop_progress_age_seconds": ("loop",),
    "llmos_ready": (),
    "llmos_events_lost": (),
}


def test_names_and_labels_are_those_that_dashboards_use() -> None:
    """A metric is added here too; none is renamed."""
    assert isinstance(metrics.REGISTRY, CollectorRegistry)
    found = {}
    for value in vars(metrics).values():
        if hasattr(value, "_labelnames"):
            (family,) = value.describe()
            found[family.name] = value._labelnames
    assert found == NAMES


def test_render_shows_every_metric() -> None:
    """With its help, in the text format; nothing of the libraries' own is in it."""
    metrics.RECORDS.labels(service="test", outcome="admitted").inc()
    text = metrics.render().decode()
    assert 'llmos_records_total{outcome="admitted",service="test"}' in text
    assert {line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# HELP")} == set(
        NAMES
    )
