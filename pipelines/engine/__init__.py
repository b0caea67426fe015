"""Devices and the engines that run models on them. Here and in `training` is all of torch; nothing is imported by this file.

Everything is synchronous and confined to one thread, the engine thread of a worker, unless a docstring says otherwise.

Rooms:

- `specs`: what a device is called; no torch, so that a node can read it. `device` opens one; `cpu` is a back end.
- `weights`: verified bytes of a model as tensors. `configuration`: checked reading of a model's own config files.
- `rope`, `kvcache`, `llama`: a decoder, step by step. `bert`, `pooling`: an encoder.
- `sampling`, `stops`: from logits to a token, from tokens to text that ends where it should.
- `sequences`, `decoder`: many sequences that generate together. `encoder`: texts to vectors.
- `loading`: from a manifest to an engine, by architecture. A new one is a file and a row there.
- `eviction` (pure): what has to leave. `residents`: the models that stay loaded within a budget.
"""
