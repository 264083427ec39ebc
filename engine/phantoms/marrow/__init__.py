"""Phantoms of stained bone marrow slides with label images."""
