"""The ledger: what is in flight per lane, tenant and device, what tenants have spent, which requests were taken, the devices'
windows, and what is resident where; rebuildable, never the truth.

Rooms:

- `port`: what a ledger promises. `redis` and `memory` keep it.
- `quotas`: the rule of quotas for one tenant, which both of them keep.
- the `.lua` files: the atomic steps in Redis, each with its keys, arguments and result at its head; `common.lua`
  stands before each of them, `lent.lua` before those about leases, `spent.lua` before those about quotas. `scripts` loads
  them, `keys` names what they touch.
- `wire`: the connection: every call bounded, safe to cancel, its reply checked; away means away for all until a probe
  succeeds.
"""
