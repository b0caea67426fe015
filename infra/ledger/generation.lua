-- generation: the name that reconcile wrote; it is gone when the ledger was emptied or damaged.
--
-- KEYS   1 holds, 2 ends, 3 use, 4 generation
-- ARGV   1 nonce
-- Result {nonce, generation or nil}

settle(now())
return {ARGV[1], redis.call('GET', KEYS[4])}
