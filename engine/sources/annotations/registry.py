"""Registry of annotation formats by name; their modules are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from engine.errors import ParameterError, UsageError, install_command
from engine.sources.annotations.base import DrawingReader

FORMATS: dict[str, str] = {
    "sunnybrook": "engine.sources.annotations.sunnybrook",
    "geojson": "engine.sources.annotations.geojson",
    "rtstruct": "engine.sources.annotations.rtstruct",
    "seg": "engine.sources.annotations.dicom_seg",
}
"""Modules that offer ``create(folder, options)``, by the format's name in cohort.toml."""


def create_reader(format_name: str, folder: Path, options: Mapping[str, object]) -> DrawingReader:
    """Return the reader of one set of annotations.

    Raises
    ------
    ParameterError
        If the format or an option is unknown.
    UsageError
        If a package of the format is not installed.
    """
    if format_name not in FORMATS:
        raise ParameterError("format", format_name, f"one of {', '.join(FORMATS)}")
    try:
        module = import_module(FORMATS[format_name])
    except ImportError:
        raise UsageError(
            f"The packages to read {format_name} are not installed. "
            f"Install them with: {install_command('dicom')}"
        ) from None
    reader: DrawingReader = module.create(folder, options)
    return reader
