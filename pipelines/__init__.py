"""What a job is and how it is decided and done. Knows schemas and infra; no service.

Rooms:

- `kinds`: task kinds: how an input is read, split, counted and put together. A new kind is a file there.
- `admission`: which submissions get credits.
- `scheduling`: which job, on which device, when: pure functions of a snapshot.
- `models`: model directories: manifests, verified hashes, tokenizers. Without torch.
- `engine`: devices and engines that run models. The only rooms with torch are this one and `training`.
- `training`: recipes.
"""
