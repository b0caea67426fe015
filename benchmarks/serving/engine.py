"""The engine of llmos, called directly without the pipeline around it: the process that its own figures come from."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.serving.process import Figures, Work, main
from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.loading import Sizes, open_model, plan_model
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.tasks import GenerateInput

BUDGET_BYTES = 6 * 1024**3


def measure(work: Work) -> Figures:
    """All sequences of a batch join at once; a batch is run once before it is measured."""
    engine = opened(work)
    rates: dict[int, list[float]] = {}
    for batch in work.batches:
        prompts = work.prompts[:batch]
        _run(engine, prompts, work.model.new_tokens)
        rates[batch] = []
        for _ in range(work.repeats):
            tokens, seconds = _run(engine, prompts, work.model.new_tokens)
            rates[batch].append(tokens / seconds)
    firsts = [_run(engine, [work.prompts[i % len(work.prompts)]], 1)[1] for i in range(work.first_tokens)]
    return Figures(rates, firsts)


def opened(work: Work) -> Engine:
    """The model as a worker opens it on one device with all cores."""
    device = open_device("cpu:0/1")
    device.activate()
    manifests = ModelStore([work.model.directory.parent]).scan().models.values()
    manifest = next(manifest for manifest in manifests if manifest.name == work.model.name)
    plan = plan_model(manifest, device, Sizes(slots=max(work.batches)), BUDGET_BYTES)
    engine = open_model(manifest, device, plan.sizes)
    if not isinstance(engine, Engine):
        raise TypeError(f"{work.model.name} does not generate")
    return engine


def _run(engine: Engine, prompts: Sequence[str], new_tokens: int) -> tuple[int, float]:
    """Tokens and seconds of all."""
    request = GenerateInput(max_tokens=new_tokens)
    began = time.perf_counter()
    for key, prompt in enumerate(prompts):
        engine.add(key, prompt, request)
    tokens = 0
    while engine.active:
        for event in engine.step():
            if event.error is not None:
                raise RuntimeError(f"a sequence failed: {event.error}")
            tokens += event.tokens
    return tokens, time.perf_counter() - began


if __name__ == "__main__":
    main(measure)
