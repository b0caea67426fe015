-- seen: remembers nonces with the origin at which each was seen first.
--
-- KEYS   2 for each tenant: its younger and its older hash of nonces, nonce → origin
-- ARGV   1 nonce of the call
--        2 seconds for which a nonce is remembered at least
--        3 how many the younger hash of a tenant may have
--        4 MessagePack: list of [place of the tenant's younger hash among KEYS, nonce, origin]
-- Result {nonce of the call, '' or the first origin for each}
--
-- A hash grows for `seconds` (its field BEGAN says since when), then it is the older one, and is dropped when the next takes
-- its place: so nothing is removed one by one. One tenant's flood ends its own hashes early, nobody else's.

local BEGAN = ''
local at = now()
local seconds, most = tonumber(ARGV[2]), tonumber(ARGV[3])

local function age(key)
    return at - tonumber(redis.call('HGET', key, BEGAN) or '0')
end

local function expire(key, times)
    redis.call('PEXPIRE', key, whole(math.ceil(times * seconds * 1000) + 1000))
end

for i = 1, #KEYS, 2 do
    local young, old = KEYS[i], KEYS[i + 1]
    if redis.call('EXISTS', young) == 1 and (age(young) >= seconds or redis.call('HLEN', young) > most) then
        redis.call('UNLINK', old)
        redis.call('RENAME', young, old)
        expire(old, 1)
    end
    if redis.call('HSETNX', young, BEGAN, instant(at)) == 1 then expire(young, 3) end
end
local result = {ARGV[1]}
for _, nonce in ipairs(cmsgpack.unpack(ARGV[4])) do
    local young, old = KEYS[nonce[1]], KEYS[nonce[1] + 1]
    local first = redis.call('HGET', old, nonce[2]) or redis.call('HGET', young, nonce[2])
    if not first then redis.call('HSET', young, nonce[2], nonce[3]) end
    result[#result + 1] = (first and first ~= nonce[3]) and first or ''
end
return result
