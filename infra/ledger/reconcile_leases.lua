-- reconcile_leases: makes the ledger hold the leases that are live, as far as the caller's term reaches.
--
-- KEYS   1 leases, 2 lease_ends, 3 lease_devices, 4 generation
-- ARGV   1 nonce
--        2 seconds after which a lease that was not renewed ends
--        3 the first epoch of the next term, in 19 digits: leases from it on are a later scheduler's
--        4 MessagePack: list of [task, device, epoch in 19 digits, hold]
-- Result {nonce, how many were ended}
--
-- Runs over all leases.

local at = now()
local ends_at = instant(at + tonumber(ARGV[2]))
settle_leases(at)
local live = {}
for _, lease in ipairs(cmsgpack.unpack(ARGV[4])) do
    live[lease[1]] = true
    local known, device = read_lease(lease[1])
    -- A higher epoch of the same term is an attempt that this scheduler has already given up.
    if known and known > lease[3] and known < ARGV[3] then end_lease(lease[1], device) end
    put_lease(lease[1], lease[2], lease[3], lease[4], ends_at)
end
local ended = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local epoch, device = string.match(all[i + 1], '^(%d+) (%S+) ')
    if not live[all[i]] and epoch < ARGV[3] then
        end_lease(all[i], device)
        ended = ended + 1
    end
end
return {ARGV[1], ended}
