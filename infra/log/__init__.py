"""The log: `port` says what it promises, `kafka` and `memory` keep it, `topics` makes the topics of the table."""
