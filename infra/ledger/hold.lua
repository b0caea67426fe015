-- hold: takes credits in order, until one does not fit.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation
-- ARGV   1 nonce
--        2 seconds after which a hold is taken back
--        3 MessagePack: [lane → [jobs, bytes] reserved, [jobs, bytes] of the overflow]
--        4 MessagePack: list of [id, lane, size, tenant]
-- Result {nonce, how many were granted}
--
-- The rule is pipelines/admission/credits.py:fits. A hold that exists counts as granted, is not charged again, and its
-- time begins anew.

local at = now()
local ends_at = instant(at + tonumber(ARGV[2]))
local limits = cmsgpack.unpack(ARGV[3])
local own_limits, overflow = limits[1], limits[2]
local use = settle(at)

local function fits(lane, size)
    local jobs, bytes = use[lane][1], use[lane][2]
    if jobs == 0 then return true end
    local limit = own_limits[lane]
    if jobs + 1 <= limit[1] and bytes + size <= limit[2] then return true end
    local over_jobs, over_bytes = 0, 0
    for _, name in ipairs(LANES) do
        local j, b = use[name][1], use[name][2]
        if name == lane then j, b = j + 1, b + size end
        over_jobs = over_jobs + math.max(j - own_limits[name][1], 0)
        over_bytes = over_bytes + math.max(b - own_limits[name][2], 0)
    end
    return over_jobs <= overflow[1] and over_bytes <= overflow[2]
end

local granted, changed = 0, false
for _, hold in ipairs(cmsgpack.unpack(ARGV[4])) do
    local id, lane, size, tenant = hold[1], hold[2], hold[3], hold[4]
    local known = redis.call('HGET', KEYS[1], id)
    if known then
        lane, size = parse(known)
    elseif fits(lane, size) then
        use[lane][1] = use[lane][1] + 1
        use[lane][2] = use[lane][2] + size
        changed = true
    else
        break
    end
    redis.call('HSET', KEYS[1], id, entry(lane, size, at, tenant))
    redis.call('ZADD', KEYS[2], ends_at, id)
    granted = granted + 1
end
if changed then write_use(KEYS[3], use) end
return {ARGV[1], granted}
