"""`transformers` `generate` in one batch, called directly: the process that the peer's figures come from."""

from __future__ import annotations

import os
import time

import tokenizers
import torch
import transformers

from benchmarks.serving.process import Figures, Work, main


def measure(work: Work) -> Figures:
    """Greedy, all sequences of a batch begin together, none ends before its last token; each batch is run once before."""
    torch.set_num_threads(os.cpu_count() or 1)
    # the file itself: by the model's type transformers would choose another tokenizer's rules for the big model
    tokenizer = tokenizers.Tokenizer.from_file(str(work.model.directory / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        work.model.directory, dtype=getattr(torch, work.model.dtype), local_files_only=True
    ).eval()
    # without a token that ends a text none is cut short, in the peer and in ours
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    ids = [tokenizer.encode(prompt).ids for prompt in work.prompts]
    rates: dict[int, list[float]] = {}
    for batch in work.batches:
        inputs = torch.tensor(ids[:batch])
        _seconds(model, inputs, work.model.new_tokens)
        rates[batch] = [
            batch * work.model.new_tokens / _seconds(model, inputs, work.model.new_tokens) for _ in range(work.repeats)
        ]
    firsts = [_seconds(model, torch.tensor([prompt]), 1) for prompt in (ids * work.first_tokens)[: work.first_tokens]]
    return Figures(rates, firsts)


def _seconds(model: transformers.PreTrainedModel, inputs: torch.Tensor, new_tokens: int) -> float:
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=new_tokens, do_sample=False)
    seconds = time.perf_counter() - began
    assert out.shape == (inputs.shape[0], inputs.shape[1] + new_tokens), "every sequence has its full length"
    return seconds


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(measure)
