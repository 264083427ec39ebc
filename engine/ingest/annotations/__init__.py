"""Ingest of annotations: read drawings, match them to images, commit their rows."""
