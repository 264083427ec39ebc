"""What a DataArray says of the image that it holds, beside the pixels."""

from __future__ import annotations

from typing import Any


def said_of(array: Any) -> tuple[tuple[float, float] | None, str]:
    """Return the spacing (y, x), micrometres, and the source that a DataArray carries."""
    attributes = getattr(array, "attrs", {})
    source = str(attributes.get("source", ""))
    coordinates = getattr(array, "coords", {})
    sides: list[float] = []
    for axis, name in enumerate(("y", "x")):
        along = coordinates.get(name)
        if along is not None and along.ndim == 1 and along.size > 1:
            if along.attrs.get("units") == "micrometer":
                sides.append(abs(float(along[-1]) - float(along[0])) / (along.size - 1))
        elif attributes.get("spacing_um") is not None:  # of a single row, say
            sides.append(float(attributes["spacing_um"][axis]))
    return ((sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None), source
