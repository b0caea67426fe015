-- residency: what is resident where.
--
-- KEYS   1 residency, 2 devices
-- ARGV   1 nonce
-- Result {nonce, field, MessagePack of the residency, field, …}

local result = redis.call('HGETALL', KEYS[1])
table.insert(result, 1, ARGV[1])
return result
