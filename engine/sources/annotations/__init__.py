"""What people draw on images, in foreign formats: read into contours, and written from them.

`registry` knows the formats by name. Readers turn the bytes of one file into `Drawing`s; what is
wrong with a file is a `SourceUnreadable` with a code of `DRAWING_REASONS`, and never a crash.
"""

from engine.sources.annotations.base import (
    DRAWING_REASONS,
    SUFFIXES,
    Drawing,
    DrawingReader,
    PlaneGeometry,
    Target,
)
from engine.sources.annotations.registry import FORMATS, create_reader

__all__ = [
    "DRAWING_REASONS",
    "FORMATS",
    "SUFFIXES",
    "Drawing",
    "DrawingReader",
    "PlaneGeometry",
    "Target",
    "create_reader",
]
