-- admit: takes requests in order, up to the first that does not fit into its lane; one outcome for each until then. Of each
-- its nonce is asked first, then its tenant's quota, then its lane's credits.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation, 5 spent; then 2 for each tenant with nonces: its younger and its older hash
--        of them, nonce → origin
-- ARGV   1 nonce of the call
--        2 MessagePack: [seconds after which a hold is taken back, seconds for which a nonce is remembered at least, how
--          many nonces the younger hash of a tenant may have, lane → [jobs, bytes] reserved, [jobs, bytes] of the overflow,
--          tenant → [jobs, bytes, requests per second, tokens per second, burst seconds] with 0 for no limit, requests]
--          A request is [id of the hold, lane, size, tenant, bytes of the nonce, place of the tenant's younger hash among
--          KEYS, origin, where the asker saw the nonce first]; id '': it wants no credit, 0 bytes: it has no nonce. At most
--          1,000 of them.
--        3 all nonces, one after the other
-- Result {nonce of the call, MessagePack: an outcome for each: 2 noted, 1 taken, 0 known, the origin at which its nonce was
--        seen first, or [which quota it is beyond, used, limit, seconds until then]}
--
-- The rules are pipelines/admission/credits.py:fits and infra/ledger/quotas.py:judge. A hold that exists is known, is not
-- charged again, and its time begins anew. Of requests behind the first that does not fit nothing is noted.
--
-- A hash of nonces grows for `seconds` (its field BEGAN says since when), then it is the older one, and is dropped when the
-- next takes its place: so nothing is removed one by one. One tenant's flood ends its own hashes early, nobody else's.
-- While nobody calls nothing is forgotten: all of ingest may have stood still, with copies in the log. Only when the log, too,
-- has let go of whatever came with the last call (7 days), the hashes expire.

local ASK_AGAIN_SECONDS, ROUNDING = 1, 1e-6
local UNUSED_SECONDS = 8 * 86400
local JOBS, BYTES, REQUESTS, TOKENS = 1, 2, 3, 4
local BEGAN = ''

local at = now()
local hold_seconds, remembered, most, own_limits, overflow, quotas, asked = unpack(cmsgpack.unpack(ARGV[2]))
local ends_at = instant(at + hold_seconds)
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

local function judge(tenant, size)
    local quota, spent = tenant.quota, tenant.spent
    if not quota then return nil end
    local jobs, bytes = tenant.jobs + tenant.more_jobs, tenant.bytes + tenant.more_bytes
    if quota[JOBS] > 0 and jobs + 1 > quota[JOBS] then return {JOBS, jobs, quota[JOBS], ASK_AGAIN_SECONDS} end
    if quota[BYTES] > 0 and bytes + size > quota[BYTES] then return {BYTES, bytes, quota[BYTES], ASK_AGAIN_SECONDS} end
    local rate, burst = quota[REQUESTS], quota[5]
    if rate > 0 then
        local room = math.max(rate * burst, 1)
        if spent[1] + 1 > room + ROUNDING then return {REQUESTS, spent[1], room, (spent[1] + 1 - room) / rate} end
    end
    rate = quota[TOKENS]
    if rate > 0 then
        local room = rate * burst
        if spent[2] > room + ROUNDING then return {TOKENS, spent[2], room, (spent[2] - room) / rate} end
    end
    return nil
end

local function age(key)
    return at - tonumber(redis.call('HGET', key, BEGAN) or '0')
end

local function expire(key)
    redis.call('PEXPIRE', key, whole(1000 * math.max(UNUSED_SECONDS, math.ceil(2 * remembered))))
end

-- The nonces of each tenant, by the place of its younger hash: `first` by nonce as far as known, `fresh` to be written.
local function read_nonces()
    local found = {}
    for place = 6, #KEYS, 2 do
        local young, old = KEYS[place], KEYS[place + 1]
        if redis.call('EXISTS', young) == 1 and (age(young) >= remembered or redis.call('HLEN', young) > most) then
            redis.call('UNLINK', old)
            redis.call('RENAME', young, old)
            expire(old)
        end
        redis.call('HSETNX', young, BEGAN, instant(at))
        expire(young)
        found[place] = {names = {}, first = {}, fresh = {}}
    end
    local from = 1
    for _, one in ipairs(asked) do
        local bytes = one[5]
        if bytes > 0 then
            local names = found[one[6]].names
            one.nonce = string.sub(ARGV[3], from, from + bytes - 1)
            names[#names + 1] = one.nonce
            from = from + bytes
        end
    end
    for place, its in pairs(found) do
        for _, key in ipairs({KEYS[place], KEYS[place + 1]}) do
            local origins = redis.call('HMGET', key, unpack(its.names))
            for i, name in ipairs(its.names) do its.first[name] = origins[i] or its.first[name] end
        end
    end
    return found
end

local nonces = read_nonces()

-- Where the nonce of one was seen first, if elsewhere.
local function elsewhere(one)
    if not one.nonce then return nil end
    local its, origin = nonces[one[6]], one[7]
    local first = its.first[one.nonce]
    if not first then
        first = one[8]
        its.first[one.nonce] = first
        its.fresh[#its.fresh + 1], its.fresh[#its.fresh + 2] = one.nonce, first
    end
    return first ~= origin and first or nil
end

-- By id, what is held already, this call's own included.
local held = {}
if #asked > 0 then
    local ids = {}
    for i, one in ipairs(asked) do ids[i] = one[1] end
    local texts = redis.call('HMGET', KEYS[1], unpack(ids))
    for i, id in ipairs(ids) do held[id] = texts[i] or nil end
end

local entries, ends, changed = {}, {}, false
local function take(id, lane, size, tenant)
    held[id] = entry(lane, size, at, tenant)
    entries[#entries + 1], entries[#entries + 2] = id, held[id]
    ends[#ends + 1], ends[#ends + 2] = ends_at, id
end

-- The outcome of one; nil: it does not fit into its lane.
local function outcome_of(one)
    local first = elsewhere(one)
    if first then return first end
    local id, lane, size, name = one[1], one[2], one[3], one[4]
    if id == '' then return 2 end
    if held[id] then
        local known_lane, known_size, _, known_name = parse(held[id])
        take(id, known_lane, known_size, known_name)
        return 0
    end
    local tenant = tenant_named(name)
    local over = judge(tenant, size)
    if over then return over end
    if not fits(lane, size) then return nil end
    take(id, lane, size, name)
    use[lane][1], use[lane][2] = use[lane][1] + 1, use[lane][2] + size
    tenant.more_jobs, tenant.more_bytes = tenant.more_jobs + 1, tenant.more_bytes + size
    if tenant.spent and tenant.quota[REQUESTS] > 0 then tenant.spent[1] = tenant.spent[1] + 1 end
    changed = true
    return 1
end

local outcomes = {}
for i, one in ipairs(asked) do
    local outcome = outcome_of(one)
    if outcome == nil then break end
    outcomes[i] = outcome
end

if #entries > 0 then
    redis.call('HSET', KEYS[1], unpack(entries))
    redis.call('ZADD', KEYS[2], unpack(ends))
end
if changed then write_use(KEYS[3], use) end
for name, tenant in pairs(tenants) do
    if tenant.more_jobs > 0 then count_tenant(KEYS[3], name, tenant.more_jobs, tenant.more_bytes) end
    if tenant.spent then write_spent(KEYS[5], name, tenant.spent) end
end
for place, its in pairs(nonces) do
    if #its.fresh > 0 then redis.call('HSET', KEYS[place], unpack(its.fresh)) end
end
return {ARGV[1], cmsgpack.pack(outcomes)}
