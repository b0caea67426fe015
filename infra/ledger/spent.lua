-- Shared by the scripts about what tenants have spent: this text stands before each of them, behind common.lua.
--
-- A tenant's field of the hash `spent` is MessagePack of [requests, tokens, at, rate of requests, rate of tokens]: what it
-- has spent of its two buckets as of `at`, and the rates at which it earns that back (see llmos/infra/ledger/quotas.py).

-- The five, as of `at`; nothing spent where there is no field.
local function spent_at(spent_key, tenant, at)
    local text = redis.call('HGET', spent_key, tenant)
    if not text then return {0, 0, at, 0, 0} end
    local s = cmsgpack.unpack(text)
    local elapsed = math.max(at - s[3], 0)
    return {math.max(s[1] - s[4] * elapsed, 0), math.max(s[2] - s[5] * elapsed, 0), at, s[4], s[5]}
end

local function write_spent(spent_key, tenant, spent)
    redis.call('HSET', spent_key, tenant, cmsgpack.pack(spent))
end
