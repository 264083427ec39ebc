"""Readers of foreign formats: discovery of files, and one reader per format.

A reader depends on neither the store nor Dask; it takes a seekable binary file and returns arrays.
"""

from engine.sources.base import (
    MAX_DECODED_BYTES,
    REASONS,
    OpenSource,
    Plane,
    PlanesSource,
    Reader,
    check_size,
    measure_file,
    read_at,
)
from engine.sources.failures import decoder_errors
from engine.sources.locations.folder import FileStat, open_file, real_path, walk_files
from engine.sources.opening import open_source
from engine.sources.registry import FORMATS, MAGIC_BYTES, Format, Sample, detect_format

__all__ = [
    "FORMATS",
    "MAGIC_BYTES",
    "MAX_DECODED_BYTES",
    "REASONS",
    "FileStat",
    "Format",
    "OpenSource",
    "Plane",
    "PlanesSource",
    "Reader",
    "Sample",
    "check_size",
    "decoder_errors",
    "detect_format",
    "measure_file",
    "open_file",
    "open_source",
    "read_at",
    "real_path",
    "walk_files",
]
