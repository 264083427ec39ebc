"""Ingest of annotations: read annotation files, match them to images, commit their rows."""
