-- release: gives credits back; unknown ids are nothing to it.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation
-- ARGV   1 nonce
--        2 MessagePack: list of ids
-- Result {nonce, how many there were}

local use = settle(now())
local released = 0
for _, id in ipairs(cmsgpack.unpack(ARGV[2])) do
    if drop(id, use) then released = released + 1 end
end
if released > 0 then write_use(KEYS[3], use) end
return {ARGV[1], released}
