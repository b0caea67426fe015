"""Devices and the engines that run models on them. Here and in `training` is all of torch; nothing is imported by this file.

Everything is synchronous and confined to one thread, the engine thread of a worker, unless a docstring says otherwise.

Rooms:

- `specs`: what a device is called; `discovery`: which accelerators are here, `nvml`: NVIDIA's. No torch in these: a node reads
  them. `device`: the interface, and how a spec's back end is found; `cpu`, `accelerator` and `emulated` (options and faults:
  `emulation`) are back ends. `conformance`: what each must do. `watch`: what a worker tells of machine and device.
- `weights`: verified bytes of a model as tensors. `configuration`: checked reading of a model's own config files.
- `interface`: what a model is to the engines. `parts`, `linear` (packed weights), `dtypes` (in what it runs): what all share.
- `causal_config`: what the blocks of each decoder compute, from its config.json; `causal`, `rope`, `kvcache`: computes it, step
  by step. `bidirectional_config`, `bidirectional`, `pooling`: the same of encoders. `fallback`: all others that generate, by
  the code of `transformers`.
- `sampling` (with `penalties` and `variates`), `stops`: from logits to a token, from tokens to text that ends where it should.
- `sequences`, `decoder`: many sequences that generate together; `pacing`: how much of prompts a step reads beside them.
  `encoder`: texts to vectors.
- `loading`: from a manifest to an engine: what it will need, and opening it. A new architecture is a row in a `…_config`.
- `eviction`, `placing` (pure): what has to leave; what is loaded next, who waits and why. `loader`: opens one model at a time
  beside whatever runs. `loaded`: a resident model. `residents`: the models of a device within a budget.
- `faults`: what a computation raised, as one of our errors.
"""
