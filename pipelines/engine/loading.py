"""From a manifest to something that runs: what a model will need, and its engine; one row per architecture.

For any thread: nothing here depends on the one that calls, but for the number of threads that torch uses in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from llmos.pipelines.engine.bidirectional import EncoderModel
from llmos.pipelines.engine.bidirectional_config import ENCODERS, read_encoder_config
from llmos.pipelines.engine.causal import CausalModel
from llmos.pipelines.engine.causal_config import CAUSAL, read_causal_config
from llmos.pipelines.engine.decoder import PREFILL_TOKENS, Engine
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.dtypes import choose_dtype
from llmos.pipelines.engine.encoder import BATCH_TEXTS, BATCH_TOKENS, Encoder
from llmos.pipelines.engine.fallback import FallbackModel
from llmos.pipelines.engine.faults import is_out_of_memory
from llmos.pipelines.engine.interface import Decoder
from llmos.pipelines.engine.kvcache import whole_units
from llmos.pipelines.engine.linear import can_pack
from llmos.pipelines.engine.pooling import read_pooling
from llmos.pipelines.engine.weights import Progress, load_weights, read_json
from llmos.pipelines.models.architectures import ability_of
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import DeviceOutOfMemory, ModelDamaged

LEAST_TOKENS = 1024
"""A decoder is not loaded where its keys and values of one sequence of so many tokens have no room beside it."""


class Sizes(NamedTuple):
    """How much may run together."""

    slots: int
    """Sequences that generate together."""
    embed_batch: int = BATCH_TEXTS
    """Texts that are embedded together."""
    context_tokens: int = 0
    """Tokens of a sequence at most; 0: as many as the model holds."""
    cache_share: float = 0.25
    """What part of a device's budget the keys and values of one model may take."""
    cache_bytes: int = 0
    """What keys and values may take, as planned; 0: what all slots need for whole contexts."""


class Plan(NamedTuple):
    """What a model will take on a device, and with what sizes it is opened."""

    sizes: Sizes
    weight_bytes: int
    cache_bytes: int
    """Of keys and values, as far as they may grow."""
    activation_bytes: int
    least_cache_bytes: int = 0
    """Of the shortest cache that is worth having."""
    precision: str = ""
    """The number format in which it is computed: torch's name of the dtype."""

    @property
    def resident_bytes(self) -> int:
        """All of it, in bytes."""
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


class Architecture(NamedTuple):
    """How models of one architecture are planned, with room for all slots, and opened."""

    plan: Callable[[Manifest, Device, Sizes], Plan]
    open: Callable[[Manifest, Device, Sizes, Progress | None], Engine | Encoder]


def plan_model(manifest: Manifest, device: Device, sizes: Sizes, budget_bytes: int) -> Plan:
    """What the model will take: with less room for keys and values where the budget does not hold all that could be used.

    Raises:
        ModelDamaged: its configuration cannot be used, or no engine here runs its architecture.
    """
    plan = _architecture(manifest).plan(manifest, device, sizes)
    plan = plan._replace(precision=str(dtype_of(manifest, device)).removeprefix("torch."))
    if not plan.cache_bytes:
        return plan
    free_bytes = budget_bytes - plan.weight_bytes - plan.activation_bytes
    cache_bytes = cache_budget(
        plan.cache_bytes, plan.least_cache_bytes, free_bytes, int(sizes.cache_share * budget_bytes)
    )
    return plan._replace(cache_bytes=cache_bytes, sizes=plan.sizes._replace(cache_bytes=cache_bytes))


def cache_budget(whole_bytes: int, least_bytes: int, free_bytes: int, share_bytes: int) -> int:
    """Bytes that a model's keys and values may take: as much as could be used, within what is free and its share, but
    no less than the least with which it is of use (then it may not fit)."""
    return max(min(whole_bytes, free_bytes, share_bytes), min(least_bytes, whole_bytes))


def open_model(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None = None) -> Engine | Encoder:
    """Loads a verified model and makes its engine. `progress` is called in this thread.

    While it loads there is, beside the tensors of the model, no more than one layer of them a second time.

    Raises:
        ModelDamaged: the files are not as the manifest says, or not a model that is computed here.
        DeviceOutOfMemory: its memory did not suffice.
    """
    try:
        return _architecture(manifest).open(manifest, device, sizes, progress)
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        text = f"loading {manifest.name}: {problem or type(problem).__name__}"
        raise DeviceOutOfMemory(device=device.label, problem=text) from problem


def dtype_of(manifest: Manifest, device: Device) -> torch.dtype:
    """In what the model is computed on the device."""
    return choose_dtype(manifest.dtype, manifest.parameters, device.dtype, device.dtypes)


def _architecture(manifest: Manifest) -> Architecture:
    found = ARCHITECTURES.get(manifest.architecture)
    if found is None and ability_of(manifest.architecture).kind == "generate":
        found = _FALLBACK
    if found is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelDamaged(
            directory=manifest.directory,
            problem=f"no engine here runs a {manifest.architecture or 'model without an architecture'}; {known} are run",
        )
    return found


def _config(manifest: Manifest) -> dict[str, Any]:
    values = read_json(manifest, "config.json")
    if values.get("quantization_config"):
        raise ModelDamaged(directory=manifest.directory, problem="quantised weights are not supported")
    return values


def _plan_generating(
    sizes: Sizes, context: int, token_bytes: int, weight_bytes: int, activation_bytes: Callable[[int, int], int]
) -> Plan:
    """`activation_bytes` is told the prompt tokens of a step and the context."""
    longest = _longest(sizes, context)
    return Plan(
        sizes=sizes,
        weight_bytes=weight_bytes,
        cache_bytes=sizes.slots * longest * token_bytes,
        activation_bytes=activation_bytes(min(PREFILL_TOKENS, longest), longest),
        least_cache_bytes=min(whole_units(LEAST_TOKENS), longest) * token_bytes,
    )


def _engine(model: Decoder, manifest: Manifest, device: Device, sizes: Sizes, tokenizer: Tokenizer) -> Engine:
    wrapped = device.wrap(model)
    longest = _longest(sizes, model.context)
    return Engine(
        wrapped,
        tokenizer,
        slots=sizes.slots,
        context=longest,
        cache_bytes=sizes.cache_bytes or sizes.slots * longest * model.kv_bytes_per_token,
        name=manifest.name,
    )


def _longest(sizes: Sizes, context: int) -> int:
    return min(context, sizes.context_tokens or context)


def _plan_causal(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
    config = read_causal_config(manifest.architecture, _config(manifest), manifest.directory)
    dtype = dtype_of(manifest, device)
    embedding_bytes = config.vocabulary * config.hidden * dtype.itemsize
    # a tied head that is laid out for products is there beside the embedding
    twice = config.tied and can_pack(device.torch_device, dtype, embedding_bytes)
    return _plan_generating(
        sizes,
        config.context,
        config.token_numbers * dtype.itemsize,
        manifest.parameters * dtype.itemsize + twice * embedding_bytes,
        lambda tokens, context: config.activation_bytes(tokens, sizes.slots, context, dtype.itemsize),
    )


def _open_causal(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None) -> Engine:
    config = read_causal_config(manifest.architecture, _config(manifest), manifest.directory)
    tokenizer = Tokenizer.load(manifest)
    weights = load_weights(manifest, progress)
    model = CausalModel(config, weights, manifest.directory, device.torch_device, dtype_of(manifest, device))
    return _engine(model, manifest, device, sizes, tokenizer)


def _fallback_context(manifest: Manifest) -> tuple[int, int]:
    """Tokens that the model holds, and numbers in keys and values of one token."""
    stored_bytes = getattr(torch, manifest.dtype).itemsize
    return manifest.context_tokens, manifest.kv_bytes_per_token // stored_bytes


def _plan_fallback(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
    _config(manifest)
    dtype = dtype_of(manifest, device)
    context, numbers = _fallback_context(manifest)

    def activation_bytes(tokens: int, context: int) -> int:
        # what is between layers, wide ones too, a mask, and logits; models differ, so this is ample
        return dtype.itemsize * (tokens * (32 * manifest.hidden_size + context) + 4 * manifest.vocabulary)

    return _plan_generating(
        sizes, context, numbers * dtype.itemsize, manifest.parameters * dtype.itemsize, activation_bytes
    )


def _open_fallback(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None) -> Engine:
    values, tokenizer = _config(manifest), Tokenizer.load(manifest)
    context, numbers = _fallback_context(manifest)
    model = FallbackModel(
        manifest.architecture,
        values,
        load_weights(manifest, progress),
        manifest.directory,
        device.torch_device,
        dtype_of(manifest, device),
        context=context,
        kv_numbers_per_token=numbers,
    )
    return _engine(model, manifest, device, sizes, tokenizer)


def _plan_encoder(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
    config = read_encoder_config(manifest.architecture, _config(manifest), manifest.directory)
    itemsize = dtype_of(manifest, device).itemsize
    return Plan(
        sizes=sizes,
        weight_bytes=manifest.parameters * itemsize,
        cache_bytes=0,
        activation_bytes=config.activation_bytes(max(BATCH_TOKENS, config.context), itemsize),
    )


def _open_encoder(manifest: Manifest, device: Device, sizes: Sizes, progress: Progress | None) -> Encoder:
    config = read_encoder_config(manifest.architecture, _config(manifest), manifest.directory)
    pooling = read_pooling(manifest)
    tokenizer = Tokenizer.load(manifest, min(config.context, pooling.max_tokens or config.context))
    weights = load_weights(manifest, progress)
    model = EncoderModel(config, weights, manifest.directory, device.torch_device, dtype_of(manifest, device))
    return Encoder(device.wrap_encoder(model), tokenizer, pooling, batch_texts=sizes.embed_batch)


ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(CAUSAL, Architecture(_plan_causal, _open_causal)),
    **dict.fromkeys(ENCODERS, Architecture(_plan_encoder, _open_encoder)),
}
"""Those that run natively. Any other that generates runs on the code of `transformers`."""
_FALLBACK = Architecture(_plan_fallback, _open_fallback)
