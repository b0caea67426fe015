-- use: what is held per lane.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation
-- ARGV   1 nonce
-- Result {nonce, jobs, bytes of each lane, the most urgent first}

local use = settle(now())
local result = {ARGV[1]}
for _, lane in ipairs(LANES) do
    result[#result + 1] = use[lane][1]
    result[#result + 1] = use[lane][2]
end
return result
