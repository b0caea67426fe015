"""Recipes that train the shipped models, in plain torch.

Rooms:

- `decoder`: the command that trains a small Llama decoder on a text.
- `recipe`: its sizes and schedule. `corpus`: the text as tokens and windows. `network`: the architecture.
- `checkpoint`: interrupting and going on. `export`, `curve`: the model directory, its card, its loss curve.
"""
