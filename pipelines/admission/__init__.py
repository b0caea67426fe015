"""Who may submit what, and when: pure functions.

- `credits`: which submissions fit into their lane, and when a paused lane goes on.
- `quotas`: the same with what tenants may use, while the ledger is away; and what a refusal says.
- `model_rights`: which models a tenant may use.
"""
