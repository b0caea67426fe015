"""The ledger: what is in flight per lane and per device, the devices' windows, and what is resident where; rebuildable,
never the truth.

Rooms:

- `port`: what a ledger promises. `redis` and `memory` keep it.
- the `.lua` files: the atomic steps in Redis, each with its keys, arguments and result at its head; `common.lua`
  stands before each of them, `lent.lua` before those about leases. `scripts` loads them, `keys` names what they touch.
- `wire`: the connection: every call bounded, safe to cancel, its reply checked; away means away for all until a probe
  succeeds.
"""
