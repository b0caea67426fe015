"""The ways a service may read and write the log, written once; the five rules of exactly-once answers live here.

- `origins`: the map of highest origins, by which replays and zombies vanish (rule 1).
- `ownership`: which partitions an instance owns, and where it starts reading.
- `catching_up`: reads places to their ends as of now.
- `sending`: one awaited batch per place.
- `one_in_one_out`: each record in becomes exactly one record out, in order (rule 1: ingest, verify).
- `answered`: which submissions of a partition have their answer (rule 4).
- `transactional`: one transactional writer, two producers in turn (rules 3 and 4: aggregator).
- `derived`: state that is read back from the log: what is live, L and U (rule 5: scheduler).
- `backlog`: how far a stage is behind, against retention.
- `tenants`: the table of tenants with their secrets.
- `reply_topics`: where a job's answers and events go beside `results` and `stream`. `offering`: writes to such topics, each by itself.
- `dead_letters`, `noting`: what becomes of unusable records, and how a settled record is logged and counted.
- `follower`: keeps a small table (catalog, tenants) up to date from a compacted topic.
"""
