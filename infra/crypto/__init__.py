"""Crypto: what makes damage, forgery and reading by strangers visible or useless.

Rooms:

- `crc`: CRC32C, which tells damage from forgery.
- `macs`: authentication codes under a tenant's secret. `secrets`: those secrets, wrapped for the topic `tenants`.
- `signatures`: by the system's own keys, checked with the public half.
- `keyring`: the system's keys, in memory. `keyfile`: in a file that only its owner can read. `roles`: which service holds which.
  `private_file`: such files. `live`: a service's own, read again when the file changes.
- `hpke`: secrets wrapped for the holder of a private key.
- `envelope`: payloads sealed under a data key per job, bound to the place they belong to. `counted`: opened by a service.
- `kept_secrets`: secrets that serve many envelopes for up to a minute.
- `channels`: what is sealed where: every binding, and the digests of receipts.
- `receipts`: signed by the aggregator, checked by anyone.
- `credentials`: what makes a client a tenant, in one file.
- `blobs`: records sealed for operators (dead letters).
"""
