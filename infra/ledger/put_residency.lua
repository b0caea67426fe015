-- put_residency: replaces what a device has resident, unless a higher incarnation of it wrote.
--
-- KEYS   1 residency, 2 devices
-- ARGV   1 nonce
--        2 device
--        3 incarnation (below 2**53)
--        4 … field of residency, MessagePack of the residency, field, …
-- Result {nonce, 1 when it was written, else 0}

local incarnation = tonumber(ARGV[3])
local known = redis.call('HGET', KEYS[2], ARGV[2])
if known then
    local before = cmsgpack.unpack(known)
    if before[1] > incarnation then return {ARGV[1], 0} end
    for _, field in ipairs(before[2]) do redis.call('HDEL', KEYS[1], field) end
end
local fields = {}
for i = 4, #ARGV, 2 do
    fields[#fields + 1] = ARGV[i]
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[2], ARGV[2], cmsgpack.pack({incarnation, fields}))
return {ARGV[1], 1}
