-- charge: adds tokens to what tenants have spent, also beyond what there is; of those without such a quota nothing is kept.
--
-- KEYS   1 spent
-- ARGV   1 nonce
--        2 MessagePack: list of [tenant, tokens]
-- Result {nonce, how many tenants were charged}

local at = now()
local charged = 0
for _, charge in ipairs(cmsgpack.unpack(ARGV[2])) do
    local spent = spent_at(KEYS[1], charge[1], at)
    if spent[5] > 0 then
        spent[2] = spent[2] + charge[2]
        write_spent(KEYS[1], charge[1], spent)
        charged = charged + 1
    end
end
return {ARGV[1], charged}
