-- tenants: what tenants hold, and what they have spent.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation, 5 spent
-- ARGV   1 nonce
-- Result {nonce, tenant, jobs, bytes, requests spent, tokens spent, tenant, …}, numbers as text

local at = now()
settle(at)
local found = {}
local function tenant_named(name)
    found[name] = found[name] or {'0', '0', '0', '0'}
    return found[name]
end
local sums = redis.call('HGETALL', KEYS[3])
for i = 1, #sums, 2 do
    local name, what = string.match(sums[i], '^@(.*):(%a+)$')
    if name then tenant_named(name)[what == 'jobs' and 1 or 2] = sums[i + 1] end
end
for _, name in ipairs(redis.call('HKEYS', KEYS[5])) do
    local spent, own = spent_at(KEYS[5], name, at), tenant_named(name)
    own[3], own[4] = string.format('%.17g', spent[1]), string.format('%.17g', spent[2])
end
local result = {ARGV[1]}
for name, own in pairs(found) do
    result[#result + 1] = name
    for i = 1, 4 do result[#result + 1] = own[i] end
end
return result
