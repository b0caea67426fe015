-- probe: writes and reads, so that a server which only answers pings (full, read-only, without its disk) stays away.
--
-- KEYS   1 probe
-- ARGV   1 nonce
-- Result {nonce}

redis.call('SET', KEYS[1], ARGV[1], 'EX', 60)
return {redis.call('GET', KEYS[1])}
