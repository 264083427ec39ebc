"""The only place that imports Dask's scheduler: clusters, ingest, runs and reductions."""
