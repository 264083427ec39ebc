"""Annotations in foreign formats: read to contours, and written from them.

`registry` lists the formats by name. Readers parse one file to `Drawing`s; any defect of a file is
raised as `SourceUnreadable` with a code of `DRAWING_REASONS`, never as a crash.
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
