"""The ledger: `port` says what it promises, `redis` and `memory` keep it, the `.lua` files are its atomic steps."""
