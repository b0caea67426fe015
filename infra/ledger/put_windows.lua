-- put_windows: replaces a device's windows, unless a later scheduler wrote.
--
-- KEYS   1 windows
-- ARGV   1 nonce
--        2 device
--        3 term, in 19 digits
--        4 MessagePack: kind → size
-- Result {nonce, 1 when it was written, else 0}

local known = redis.call('HGET', KEYS[1], ARGV[2])
if known and string.sub(known, 1, 19) > ARGV[3] then return {ARGV[1], 0} end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3] .. ' ' .. ARGV[4])
return {ARGV[1], 1}
