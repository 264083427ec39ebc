"""TIFF: pages, metadata, checks, fax compression, values of ImageJ."""
