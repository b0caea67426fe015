-- Shared by the scripts about leases: this text stands before each of them, behind common.lua.
--
-- KEYS   1 leases, 2 lease_ends, 3 lease_devices, 4 generation
--
-- A lease is a field of the hash `leases` ("epoch device hold", the epoch in 19 digits, so that text compares as numbers
-- do: a double has too few), its end a member of `lease_ends`, and "device task" a member of `lease_devices`. Whatever
-- changes a lease changes all three in the same script; how many a device has is counted there, never kept.

local function read_lease(task)
    local text = redis.call('HGET', KEYS[1], task)
    if not text then return nil end
    return string.match(text, '^(%d+) (%S+) ')
end

local function end_lease(task, device)
    redis.call('HDEL', KEYS[1], task)
    redis.call('ZREM', KEYS[2], task)
    if device then redis.call('ZREM', KEYS[3], device .. ' ' .. task) end
end

-- Gives the lease, unless a higher epoch has it; whether it did.
local function put_lease(task, device, epoch, hold, ends_at)
    local known, before = read_lease(task)
    if known and known > epoch then return false end
    if before and before ~= device then redis.call('ZREM', KEYS[3], before .. ' ' .. task) end
    redis.call('HSET', KEYS[1], task, epoch .. ' ' .. device .. ' ' .. hold)
    redis.call('ZADD', KEYS[2], ends_at, task)
    redis.call('ZADD', KEYS[3], 0, device .. ' ' .. task)
    return true
end

-- Takes back what has run out. Where the three do not fit together (a key was evicted or deleted), all is emptied, and
-- the generation with it, so that the scheduler puts back what is live.
local function settle_leases(at)
    local count = redis.call('HLEN', KEYS[1])
    if redis.call('ZCARD', KEYS[2]) ~= count or redis.call('ZCARD', KEYS[3]) ~= count then
        redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
        return
    end
    local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', instant(at), 'LIMIT', 0, EXPIRE_AT_MOST)
    for _, task in ipairs(over) do
        local _, device = read_lease(task)
        end_lease(task, device)
    end
end
