"""What every device must do, as checks that any back end's tests may run: `check_device(open_device("toy:0/1"))`.

Each check runs in a thread of its own that the device activated, as a worker's does. A tiny random decoder is compared
with the same one in float32 on the CPU. A test parametrises over `CHECKS`, and calls `run_check(name, device)`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from llmos.pipelines.engine.causal import CausalModel
from llmos.pipelines.engine.causal_config import read_causal_config
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.interface import Decoder
from llmos.pipelines.engine.specs import parse_spec

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Of the largest logit: how far a device's logits may lie from those of the CPU in float32, by its dtype."""
CHECK_SECONDS = 120.0
"""How long a check may take before it counts as failed."""

_ARCHITECTURE = "Qwen2ForCausalLM"
_CONFIG = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_TOKENS = [(7 * i * i + 3) % 97 for i in range(150)]
"""A prompt that is longer than the caches' unit of growth."""


class NotConforming(AssertionError):
    """A device does not do what every device must."""


Check = Callable[[Device], None]


def check_device(device: Device) -> None:
    """Runs all checks, each in a thread of its own. Raises `NotConforming` with the check's name and what is wrong."""
    for name in CHECKS:
        run_check(name, device)


def run_check(name: str, device: Device) -> None:
    """Runs one check of `CHECKS` in a thread that the device activates. Raises `NotConforming`."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            device.activate()
            CHECKS[name](device)
        except BaseException as problem:  # noqa: BLE001 - raised below, in the caller's thread
            problems.append(problem)

    thread = threading.Thread(target=run, name=f"conformance {name}", daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    if thread.is_alive():
        raise NotConforming(f"{device.spec}: {name} did not end within {CHECK_SECONDS:.0f} s")
    if problems:
        raise NotConforming(f"{device.spec}: {name}: {problems[0]}") from problems[0]


def describes_itself(device: Device) -> None:
    """What it says of itself agrees with its spec, and is possible."""
    spec = parse_spec(device.spec)
    _hold(device.kind == spec.kind, f"its kind is {device.kind!r}, not {spec.kind!r}")
    _hold(device.label == spec.label, f"its label is {device.label!r}, not {spec.label!r}")
    _hold(device.threads >= 1, f"it has {device.threads} threads")
    _hold(device.memory_bytes > 0, f"it has {device.memory_bytes} bytes of memory")
    _hold(device.dtype in device.dtypes, f"{device.dtype} is not among its fast dtypes {set(device.dtypes)}")


def activates_a_thread(device: Device) -> None:
    """Operations in an activated thread, also in one that is activated twice, use no more threads than it has."""
    device.activate()
    _hold(torch.get_num_threads() <= device.threads, f"{torch.get_num_threads()} threads compute, not {device.threads}")


def tells_its_memory(device: Device) -> None:
    """What is free lies between nothing and all of it, also after the cache was emptied."""
    for when in ("at first", "after empty_cache"):
        free = device.free_bytes()
        _hold(0 <= free <= device.memory_bytes, f"{when} {free} bytes of {device.memory_bytes} are free")
        device.empty_cache()


def tells_its_load(device: Device) -> None:
    """Shares lie between 0 and 1 and memory within its size, in this thread and, as the heart asks, in another."""
    loads = [device.load()]
    other = threading.Thread(target=lambda: loads.append(device.load()))
    other.start()
    other.join(CHECK_SECONDS)
    _hold(len(loads) == 2, "another thread was not told")
    for load in loads:
        for name in ("utilisation", "own_utilisation", "clock_fraction"):
            _hold(0.0 <= getattr(load, name) <= 1.0, f"{name} is {getattr(load, name)}")
        used, total = load.memory_used_bytes, load.memory_bytes
        _hold(0 <= used <= total or total == 0, f"{used} bytes of {total} are used")


def synchronizes(device: Device) -> None:
    """`synchronize` returns, with nothing to wait for and behind an operation, whose result is there then."""
    device.synchronize()
    ones = torch.ones(256, 256, device=device.torch_device, dtype=device.dtype)
    product = ones @ ones
    device.synchronize()
    _hold(bool((product.cpu() == 256).all()), "the product of matrices of ones is wrong")


def computes_as_the_reference(device: Device) -> None:
    """Logits of every position are finite and those of the CPU, in each dtype that it says to be fast in."""
    wanted = _read(make_decoder(None, torch.float32), _TOKENS)
    for dtype in sorted(device.dtypes, key=str):
        found = _read(make_decoder(device, dtype), _TOKENS)
        _hold_close(found, wanted, dtype, "logits of a prompt")


def reads_in_pieces(device: Device) -> None:
    """A prompt that is read in pieces gives what it gives as a whole, and so does its end when decoded token by token."""
    model = make_decoder(device, device.dtype)
    wanted = _read(model, _TOKENS)[-1:]
    cache = model.new_cache(2, 192)
    for start, end in ((0, 1), (1, 40), (40, 146)):
        model.prefill(_TOKENS[start:end], cache, 1, start)
    hidden = model.prefill(_TOKENS[146:148], cache, 1, 146)
    for position in (148, 149):
        hidden = model.decode([_TOKENS[position]], [position], cache, 1)
    _hold_close(_logits(model, hidden), wanted, device.dtype, "logits behind a prompt in pieces")


def decodes_together(device: Device) -> None:
    """Sequences of different lengths that decode together give what each gives alone; a repeated step is harmless."""
    model = make_decoder(device, device.dtype)
    lengths = (5, 131, 60)
    cache = model.new_cache(4, 192)
    for slot, length in enumerate(lengths):
        model.prefill(_TOKENS[:length], cache, slot, 0)
    tokens = [_TOKENS[length] for length in lengths]
    for _ in range(2):
        found = _logits(model, model.decode(tokens, lengths, cache))
    cache.move(2, 3, lengths[2])
    moved = _logits(model, model.decode(tokens[2:], lengths[2:], cache, 3))
    for slot, length in enumerate(lengths):
        wanted = _read(model, _TOKENS[: length + 1])[-1:]
        _hold_close(found[slot : slot + 1], wanted, device.dtype, f"logits of sequence {slot} in a batch")
        if slot == 2:
            _hold_close(moved, wanted, device.dtype, "logits of a sequence that was moved")


def wraps_models_of_texts(device: Device) -> None:
    """A model that reads texts gives what it gives unwrapped, and says the same of itself."""
    plain = _Lookup(device)
    wrapped = device.wrap_encoder(plain)
    _hold(wrapped.vocabulary == plain.vocabulary, f"{wrapped.vocabulary} tokens are known, not {plain.vocabulary}")
    _hold(wrapped.resident_bytes >= plain.resident_bytes, f"{wrapped.resident_bytes} bytes are too few")
    batch = [_TOKENS[:9], _TOKENS[3:5]]
    for found, wanted in zip(wrapped.hidden_states(batch), plain.hidden_states(batch), strict=True):
        _hold(found.shape == wanted.shape, f"shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
        _hold(torch.equal(found, wanted), "what it gives differs")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        describes_itself,
        activates_a_thread,
        tells_its_memory,
        tells_its_load,
        synchronizes,
        computes_as_the_reference,
        reads_in_pieces,
        decodes_together,
        wraps_models_of_texts,
    )
}
"""Every check under its name."""


def make_decoder(device: Device | None, dtype: torch.dtype) -> Decoder:
    """The tiny decoder: 2 layers of width 64, 97 tokens, random weights, always the same. On the plain CPU for None."""
    config = read_causal_config(_ARCHITECTURE, _CONFIG, "the conformance kit")
    place = torch.device("cpu") if device is None else device.torch_device
    model: Decoder = CausalModel(config, _weights(), "the conformance kit", place, dtype)
    return model if device is None else device.wrap(model)


def _weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(20_240_607)
    hidden, wide, heads, keys, vocabulary = 64, 96, 64, 32, 97
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(2):
        layer = f"model.layers.{i}."
        for name, rows in (("q", heads), ("k", keys), ("v", keys)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, heads)
        shapes[f"{layer}mlp.gate_proj.weight"] = shapes[f"{layer}mlp.up_proj.weight"] = (wide, hidden)
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, wide)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    weights = {name: torch.randn(shape, generator=random) * 0.15 for name, shape in shapes.items()}
    norms = ["model.norm.weight"]
    norms += [f"model.layers.{i}.{name}_layernorm.weight" for i in range(2) for name in ("input", "post_attention")]
    return weights | {name: torch.ones(hidden) for name in norms}


def _read(model: Decoder, tokens: Sequence[int]) -> torch.Tensor:
    """Logits (n, vocabulary) behind each token of a prompt that is read as a whole."""
    return _logits(model, model.prefill(tokens, model.new_cache(1, 192), 0, 0))


def _logits(model: Decoder, hidden: torch.Tensor) -> torch.Tensor:
    return model.logits(hidden).to(device="cpu", dtype=torch.float64)


def _hold(true: bool, problem: str) -> None:
    if not true:
        raise NotConforming(problem)


def _hold_close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, what: str) -> None:
    _hold(found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
    _hold(bool(torch.isfinite(found).all()), f"{what}: not finite in {dtype}")
    error = float((found - wanted).abs().max() / wanted.abs().max())
    _hold(error <= TOLERANCES[dtype], f"{what}: off by {error:.2e} of the largest in {dtype}")


class _Lookup:
    """The least that reads texts: a table of vectors."""

    def __init__(self, device: Device) -> None:
        self._place = device.torch_device
        table = torch.arange(97 * 8, dtype=torch.float32).view(97, 8) / 97
        self._table = table.to(device=self._place, dtype=device.dtype)

    @property
    def vocabulary(self) -> int:
        return len(self._table)

    @property
    def resident_bytes(self) -> int:
        return self._table.nbytes

    @torch.inference_mode()
    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, batch))
        padded = torch.tensor([[*text, *[0] * (longest - len(text))] for text in batch], device=self._place)
        lengths = torch.tensor([len(text) for text in batch], device=self._place)
        there = torch.arange(longest, device=self._place)[None, :] < lengths[:, None]
        return functional.embedding(padded, self._table), there
