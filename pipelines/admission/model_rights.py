"""Which models a tenant may use, by whatever it may call them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from llmos.schemas.catalog import Tenant


def may_use_model(tenant: Tenant, names: Iterable[str]) -> bool:
    """Whether one of a model's names, aliases or its identity matches one of the tenant's patterns; none: all may be used."""
    return not tenant.models or any(fnmatchcase(name, pattern) for name in names for pattern in tenant.models)
