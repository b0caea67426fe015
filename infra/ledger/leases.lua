-- leases: how many tasks each device has.
--
-- KEYS   1 leases, 2 lease_ends, 3 lease_devices, 4 generation
-- ARGV   1 nonce
-- Result {nonce, device, how many, device, …}

settle_leases(now())
local result, last = {ARGV[1]}, nil
for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    local device = string.match(member, '^(%S+) ')
    if device ~= last then
        last = device
        result[#result + 1] = device
        result[#result + 1] = 0
    end
    result[#result] = result[#result] + 1
end
return result
