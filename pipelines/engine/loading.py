"""From a manifest to something that runs: what a model will need, and its engine; one row per architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llmos.pipelines.engine.bert import BertConfig, BertModel
from llmos.pipelines.engine.decoder import PREFILL_TOKENS, Engine
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.encoder import BATCH_TEXTS, BATCH_TOKENS, Encoder
from llmos.pipelines.engine.llama import LlamaConfig, LlamaModel
from llmos.pipelines.engine.pooling import read_pooling
from llmos.pipelines.engine.weights import Progress, load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import ModelDamaged


class Sizes(NamedTuple):
    """How much may run together."""

    slots: int
    """Sequences that generate together."""
    embed_batch: int = BATCH_TEXTS
    """Texts that are embedded together."""


class Plan(NamedTuple):
    """What a model will take on a device, and with how many slots it is opened."""

    sizes: Sizes
    weight_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def resident_bytes(self) -> int:
        """All of it, in bytes."""
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


class Architecture(NamedTuple):
    """How models of one architecture are planned and opened."""

    plan: Callable[[Manifest, Device, Sizes], Plan]
    open: Callable[[Manifest, Device, Sizes, Progress | None], Engine | Encoder]


def plan_model(manifest: Manifest, device: Device, sizes: Sizes, budget_bytes: int) -> Plan:
    """What the model will take; with fewer slots where the budget does not hold all of them, but at least one.

    Raises:
        ModelDamaged: its configuration cannot be used, or no engine here runs its architecture.
    """
    architecture = _architecture(manifest)
    plan = architecture.plan(manifest, device, sizes)
    while plan.resident_bytes > budget_bytes and plan.cache_bytes and plan.sizes.slots > 1:
        # what a slot less saves is linear, so this ends after a step or two
        over = plan.resident_bytes - budget_bytes
        fewer = max(1, -(-over * plan.sizes.slots // (plan.cache_bytes + plan.activation_bytes)))
        slots = max(1, plan.sizes.slots - fewer)
        plan = architecture.plan(manifest, device, plan.sizes._replace(slots=slots))
    return plan


def open_model(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None = None) -> Engine | Encoder:
    """Loads a verified model and makes its engine.

    While it loads, the files' bytes are in memory beside the tensors made of them.

    Raises:
        ModelDamaged: the files are not as the manifest says, or not a model that is computed here.
    """
    return _architecture(manifest).open(manifest, device, sizes, progress)


def _architecture(manifest: Manifest) -> Architecture:
    found = ARCHITECTURES.get(manifest.architecture)
    if found is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelDamaged(
            directory=manifest.directory,
            problem=f"no engine here runs a {manifest.architecture or 'model without an architecture'}; {known} are run",
        )
    return found


def _plan_llama(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
    config = LlamaConfig.read(read_json(manifest, "config.json"), manifest.directory)
    itemsize, context = device.dtype.itemsize, config.context
    tables = 2 * context * config.head_dim * itemsize
    return Plan(
        sizes=sizes,
        weight_bytes=manifest.parameters * itemsize + tables,
        cache_bytes=config.cache_bytes(sizes.slots, context, itemsize),
        activation_bytes=config.activation_bytes(min(PREFILL_TOKENS, context), sizes.slots, context, itemsize),
    )


def _open_llama(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None) -> Engine:
    config = LlamaConfig.read(read_json(manifest, "config.json"), manifest.directory)
    tokenizer = Tokenizer.load(manifest)
    weights = load_weights(manifest, progress)
    model = LlamaModel(config, weights, manifest.directory, device.torch_device, device.dtype)
    return Engine(model, tokenizer, sizes.slots, config.context, name=manifest.name)


def _plan_bert(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
    config = BertConfig.read(read_json(manifest, "config.json"), manifest.directory)
    itemsize = device.dtype.itemsize
    return Plan(
        sizes=sizes,
        weight_bytes=manifest.parameters * itemsize,
        cache_bytes=0,
        activation_bytes=config.activation_bytes(max(BATCH_TOKENS, config.positions), itemsize),
    )


def _open_bert(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None) -> Encoder:
    config = BertConfig.read(read_json(manifest, "config.json"), manifest.directory)
    pooling = read_pooling(manifest)
    longest = min(config.positions, pooling.max_tokens or config.positions)
    tokenizer = Tokenizer.load(manifest, longest)
    weights = load_weights(manifest, progress)
    model = BertModel(config, weights, manifest.directory, device.torch_device, device.dtype)
    return Encoder(model, tokenizer, pooling, batch_texts=sizes.embed_batch)


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(_plan_llama, _open_llama),
    "BertModel": Architecture(_plan_bert, _open_bert),
}
