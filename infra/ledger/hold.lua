-- hold: takes credits in order, up to the first that does not fit into its lane; one outcome for each until then.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation, 5 spent
-- ARGV   1 nonce
--        2 seconds after which a hold is taken back
--        3 MessagePack: [lane → [jobs, bytes] reserved, [jobs, bytes] of the overflow]
--        4 MessagePack: list of [id, lane, size, tenant]
--        5 MessagePack: tenant → [jobs, bytes, requests per second, tokens per second, burst seconds], 0 for no limit
-- Result {nonce, an outcome for each: 1 taken, 0 known, or "which quota it is beyond, used, limit, seconds until then"}
--
-- The rules are pipelines/admission/credits.py:fits and infra/ledger/quotas.py:judge. A hold that exists is known, is not
-- charged again, and its time begins anew.

local ASK_AGAIN_SECONDS, ROUNDING = 1, 1e-6
local JOBS, BYTES, REQUESTS, TOKENS = 1, 2, 3, 4

local at = now()
local ends_at = instant(at + tonumber(ARGV[2]))
local limits = cmsgpack.unpack(ARGV[3])
local own_limits, overflow = limits[1], limits[2]
local quotas = cmsgpack.unpack(ARGV[5])
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

-- A tenant as of now: what it has in flight, what this call adds to that, its quota and what it has spent, if it has any.
local tenants = {}
local function tenant_named(name)
    local tenant = tenants[name]
    if tenant then return tenant end
    tenant = {jobs = 0, bytes = 0, more_jobs = 0, more_bytes = 0, quota = quotas[name]}
    tenants[name] = tenant
    local quota = tenant.quota
    if quota then
        local held = redis.call('HMGET', KEYS[3], '@' .. name .. ':jobs', '@' .. name .. ':bytes')
        tenant.jobs, tenant.bytes = tonumber(held[1] or '0'), tonumber(held[2] or '0')
    end
    if quota and (quota[REQUESTS] > 0 or quota[TOKENS] > 0) then
        local spent = spent_at(KEYS[5], name, at)
        spent[4], spent[5] = quota[REQUESTS], quota[TOKENS]
        if quota[REQUESTS] == 0 then spent[1] = 0 end
        if quota[TOKENS] == 0 then spent[2] = 0 end
        tenant.spent = spent
    else
        redis.call('HDEL', KEYS[5], name)
    end
    return tenant
end

local function beyond(which, used, limit, seconds)
    return string.format('%d %.17g %.17g %.6f', which, used, limit, seconds)
end

local function judge(tenant, size)
    local quota, spent = tenant.quota, tenant.spent
    if not quota then return nil end
    local jobs, bytes = tenant.jobs + tenant.more_jobs, tenant.bytes + tenant.more_bytes
    if quota[JOBS] > 0 and jobs + 1 > quota[JOBS] then return beyond(JOBS, jobs, quota[JOBS], ASK_AGAIN_SECONDS) end
    if quota[BYTES] > 0 and bytes + size > quota[BYTES] then
        return beyond(BYTES, bytes, quota[BYTES], ASK_AGAIN_SECONDS)
    end
    local rate, burst = quota[REQUESTS], quota[5]
    if rate > 0 then
        local room = math.max(rate * burst, 1)
        if spent[1] + 1 > room + ROUNDING then return beyond(REQUESTS, spent[1], room, (spent[1] + 1 - room) / rate) end
    end
    rate = quota[TOKENS]
    if rate > 0 then
        local room = rate * burst
        if spent[2] > room + ROUNDING then return beyond(TOKENS, spent[2], room, (spent[2] - room) / rate) end
    end
    return nil
end

local result, changed = {ARGV[1]}, false
for _, hold in ipairs(cmsgpack.unpack(ARGV[4])) do
    local id, lane, size, name = hold[1], hold[2], hold[3], hold[4]
    local outcome
    local known = redis.call('HGET', KEYS[1], id)
    if known then
        local _
        lane, size, _, name = parse(known)
        outcome = 0
    else
        local tenant = tenant_named(name)
        outcome = judge(tenant, size)
        if not outcome then
            if not fits(lane, size) then break end
            outcome = 1
            use[lane][1], use[lane][2] = use[lane][1] + 1, use[lane][2] + size
            tenant.more_jobs, tenant.more_bytes = tenant.more_jobs + 1, tenant.more_bytes + size
            if tenant.spent and tenant.quota[REQUESTS] > 0 then tenant.spent[1] = tenant.spent[1] + 1 end
            changed = true
        end
    end
    if type(outcome) == 'number' then
        redis.call('HSET', KEYS[1], id, entry(lane, size, at, name))
        redis.call('ZADD', KEYS[2], ends_at, id)
    end
    result[#result + 1] = outcome
end
if changed then write_use(KEYS[3], use) end
for name, tenant in pairs(tenants) do
    if tenant.more_jobs > 0 then count_tenant(KEYS[3], name, tenant.more_jobs, tenant.more_bytes) end
    if tenant.spent then write_spent(KEYS[5], name, tenant.spent) end
end
return result
