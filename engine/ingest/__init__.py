"""Ingest: find source files, probe and read them, commit catalog rows and pixels."""
