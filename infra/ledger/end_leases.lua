-- end_leases: ends leases of these epochs or of lower ones.
--
-- KEYS   1 leases, 2 lease_ends, 3 lease_devices, 4 generation
-- ARGV   1 nonce
--        2 MessagePack: list of [task, epoch in 19 digits]
-- Result {nonce, how many were not there to be ended}

settle_leases(now())
local missing = 0
for _, ended in ipairs(cmsgpack.unpack(ARGV[2])) do
    local epoch, device = read_lease(ended[1])
    if epoch and epoch <= ended[2] then end_lease(ended[1], device) else missing = missing + 1 end
end
return {ARGV[1], missing}
