"""Clusters of dask-kubernetes: API client, manifests, and waiting for pods."""
