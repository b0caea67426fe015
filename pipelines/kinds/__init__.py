"""Task kinds: one file a kind, behind the interface in `base`; `registry` knows them all.

A kind says how its input is read, how a list is split into parts, what a part will cost, and how large the answer may get.
`parts` seals the parts of a job and opens them, `contents` tells what an input asks for beside the defaults, `sizes` what an
item of an answer takes beside its output. How it runs on a device is the worker's: `services/worker/runners`.
"""

from llmos.pipelines.kinds.base import Kind, PartPlan
from llmos.pipelines.kinds.registry import KINDS, kind_named

__all__ = ["KINDS", "Kind", "PartPlan", "kind_named"]
