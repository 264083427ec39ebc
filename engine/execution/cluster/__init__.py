"""Clusters: connect to one or start one."""
