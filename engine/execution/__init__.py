"""Execution on Dask: clusters, task pool, quarantine, progress, memory limits."""
