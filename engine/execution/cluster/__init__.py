"""Clusters: what to connect to or start, and what was opened."""
