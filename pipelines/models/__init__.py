"""Model directories: what is in them, whether it is whole, and text to tokens and back. Without torch.

Rooms:

- `manifest`: a directory read and hashed: identity, sizes, what it can do. `tensors`: safetensors headers, checked.
- `contents`: which files count, and what may not be there. `store`: directories of models, scanned and verified.
- `shipped`: the models that an installation has. `tokenizer`: encode, count, decode, stream.
"""
