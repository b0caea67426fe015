"""Verify: admitted → sealed, one record out for one record in.

- `app`: builds the stage and runs it beside the tables it follows.
- `handler`: settles records: a sealed job, a refusal, or a dead letter.
- `opening`: checksum and envelope of what the client sent: pure.
- `checking`: what a submission asks for, checked and split: pure.
- `directory`: models by name, alias and identity, and their tokenizers where they are at hand.
"""
