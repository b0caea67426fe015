"""Model directories: what is in them, whether it is whole, and text to tokens and back. Without torch.

Rooms, from a directory to a name:

- `places`: where models lie below a models directory: folders of folders, caches of the Hugging Face hub.
- `contents`: which files count, and what may not be there. `verified`: small files, read as they were then.
- `hashing`: hashes of files, and what proves that they did not change. `tensors`: safetensors headers, checked.
- `manifest`: a directory read and hashed: identity, what it can do. `sizes`: the numbers in its configuration.
- `architectures`: which run here, as what. `shipped`: the models that an installation has.
- `examining`: a directory, whole or damaged. `cache`: what the machine knows of its directories.
- `store`: directories of models, scanned, watched, verified, put in quarantine.
- `naming`: names, aliases and identities to models. `tokenizer`: encode, count, decode, stream. `chat`: conversations.
"""
