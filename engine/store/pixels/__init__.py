"""Pixels in OME-Zarr: layout, shards, stacks, repair."""
