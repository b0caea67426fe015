"""Ingest: requests.* → admitted, one record out for one readable record in.

- `app`: builds the stage and runs it beside the tables it follows.
- `handler`: settles records: admitted, refused or dead, and stops where credits end.
- `reading`: what a record of a requests topic says: pure, as are its steps: `authenticating` (whose it is), `freshness` (whether
  it is one of now), `rights` (what its tenant may ask for), `loose` (what is left of a request with a wrong field).
- `credits`: admits requests (nonces, quotas, credits) in the ledger, or by the scheduler's live counts when the ledger is away.
- `frontier`: how far back the topics are not read yet by every instance: so far back nonces are known.
- `nonces`: what this instance remembers of signed requests, for the time without a ledger.
"""
