-- Shared by the ledger's scripts: this text stands before each of them.
--
-- A hold is a field of the hash `holds` ("lane:size:granted_at:tenant"), its end a member of the sorted set `ends`, and
-- the sums per lane and per tenant fields of the hash `use` ("lane:jobs", "lane:bytes", "@tenant:jobs", "@tenant:bytes").
-- Whatever changes a hold changes all three in the same script, so the sums never stand without their entries. Times are Redis's own, in seconds. ARGV[1] is the caller's nonce, and the first
-- element of every result.

local LANES = {'interactive', 'standard', 'batch'}
local EXPIRE_AT_MOST = 1000

local function now()
    local t = redis.call('TIME')
    return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Numbers as Redis takes them: never in scientific notation, no -0, times to the microsecond.
local function whole(x) return string.format('%.0f', x + 0) end
local function instant(x) return string.format('%.6f', x) end

local function entry(lane, size, granted_at, tenant)
    return lane .. ':' .. whole(size) .. ':' .. instant(granted_at) .. ':' .. tenant
end

local function parse(text)
    local lane, size, granted_at, tenant = string.match(text, '^(%a+):(%d+):([%d.]+):(.*)$')
    return lane, tonumber(size), tonumber(granted_at), tenant
end

-- lane → {jobs, bytes}, from the sums.
local function read_use(use_key)
    local fields = {}
    for _, lane in ipairs(LANES) do
        fields[#fields + 1], fields[#fields + 2] = lane .. ':jobs', lane .. ':bytes'
    end
    local sums = redis.call('HMGET', use_key, unpack(fields))
    local use = {}
    for i, lane in ipairs(LANES) do
        use[lane] = {tonumber(sums[2 * i - 1] or '0'), tonumber(sums[2 * i] or '0')}
    end
    return use
end

local function write_use(use_key, use)
    local sums = {}
    for _, lane in ipairs(LANES) do
        sums[#sums + 1], sums[#sums + 2] = lane .. ':jobs', whole(use[lane][1])
        sums[#sums + 1], sums[#sums + 2] = lane .. ':bytes', whole(use[lane][2])
    end
    redis.call('HSET', use_key, unpack(sums))
end

-- Adds to what a tenant has in flight; what has nothing has no fields.
local function count_tenant(use_key, tenant, jobs, bytes)
    local field = '@' .. tenant
    if redis.call('HINCRBY', use_key, field .. ':jobs', whole(jobs)) > 0 then
        redis.call('HINCRBY', use_key, field .. ':bytes', whole(bytes))
    else
        redis.call('HDEL', use_key, field .. ':jobs', field .. ':bytes')
    end
end

-- Removes a hold and what it counted for in `use` (a table); whether it was there.
local function drop(id, use)
    local text = redis.call('HGET', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    if not text then return false end
    redis.call('HDEL', KEYS[1], id)
    local lane, size, _, tenant = parse(text)
    use[lane][1] = use[lane][1] - 1
    use[lane][2] = use[lane][2] - size
    count_tenant(KEYS[3], tenant, -1, -size)
    return true
end

-- The sums, after what has run out is taken back. Where the three do not fit together (a key was evicted or deleted),
-- all is emptied, and the generation with it, so that the scheduler puts back what is live.
local function settle(at)
    local use = read_use(KEYS[3])
    local jobs = 0
    for _, lane in ipairs(LANES) do jobs = jobs + use[lane][1] end
    if redis.call('HLEN', KEYS[1]) ~= jobs or redis.call('ZCARD', KEYS[2]) ~= jobs then
        redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
        return read_use(KEYS[3])
    end
    local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', instant(at), 'LIMIT', 0, EXPIRE_AT_MOST)
    for _, id in ipairs(over) do drop(id, use) end
    if #over > 0 then write_use(KEYS[3], use) end
    return use
end

