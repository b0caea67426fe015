"""Ingest: requests.* → admitted, one record out for one readable record in.

- `app`: builds the stage and runs it beside the tables it follows.
- `handler`: settles records: admitted, refused or dead, and stops where credits end.
- `reading`: what a record of a requests topic says: pure.
- `credits`: takes credits from the ledger, or by the scheduler's live counts when the ledger is away.
"""
