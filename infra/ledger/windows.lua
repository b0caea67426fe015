-- windows: the windows of all devices.
--
-- KEYS   1 windows
-- ARGV   1 nonce
-- Result {nonce, device, "term windows", device, …}

local result = redis.call('HGETALL', KEYS[1])
table.insert(result, 1, ARGV[1])
return result
