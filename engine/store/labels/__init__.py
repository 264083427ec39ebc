"""Label images in OME-Zarr, and their publication."""
