"""Crypto: what makes damage, forgery and reading by strangers visible or useless.

Rooms:

- `crc`: CRC32C, which tells damage from forgery.
- `macs`: authentication codes under a tenant's secret. `secrets`: those secrets, wrapped for the topic `tenants`.
- `keyring`: the key-encryption keys, in a file that only its owner can read.
- `envelope`: payloads sealed under a data key per job, bound to the place they belong to.
- `blobs`: records sealed for operators (dead letters).
"""
