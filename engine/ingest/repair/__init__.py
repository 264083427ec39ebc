"""Repair of stored pixels during an ingest: damaged shards are written again from their sources."""
