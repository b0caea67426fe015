"""The node: one per machine; starts its workers, which die with it, and says so when one dies."""
