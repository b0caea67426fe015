-- lease: takes leases, each for itself.
--
-- KEYS   1 leases, 2 lease_ends, 3 lease_devices, 4 generation
-- ARGV   1 nonce
--        2 seconds after which a lease that was not renewed ends
--        3 MessagePack: list of [task, device, epoch in 19 digits, hold]
-- Result {nonce, 1 or 0 for each: 0 where a higher epoch has the task}

local at = now()
local ends_at = instant(at + tonumber(ARGV[2]))
settle_leases(at)
local result = {ARGV[1]}
for _, lease in ipairs(cmsgpack.unpack(ARGV[3])) do
    result[#result + 1] = put_lease(lease[1], lease[2], lease[3], lease[4], ends_at) and 1 or 0
end
return result
