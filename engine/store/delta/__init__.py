"""Delta tables: ledgers, log entries, checkpoints, integrity, torn commits."""
