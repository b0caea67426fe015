"""The one typed settings tree: `tree` holds it, `origin` tells where each value came from, `document` writes it down."""

from llmos.infra.settings.tree import Settings, load

__all__ = ["Settings", "load"]
