"""OME-Zarr metadata (NGFF 0.5, https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AXES = {
    "t": {"name": "t", "type": "time"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space"},
    "y": {"name": "y", "type": "space"},
    "x": {"name": "x", "type": "space"},
}


def group_attributes(
    name: str, shapes: Sequence[tuple[int, ...]], spacing_um: tuple[float, float] | None
) -> dict[str, Any]:
    """Return the attributes of an image group.

    Parameters
    ----------
    name
        Name of the image.
    shapes
        Shapes of the levels, finest first; axes t,c,y,x or t,c,z,y,x.
    spacing_um
        Pixel spacing (y, x) of the finest level, micrometres; None where it is not known, and
        then the axes have no unit.
    """
    names = ("t", "c", "z", "y", "x") if len(shapes[0]) == 5 else ("t", "c", "y", "x")
    axes = [dict(AXES[axis]) for axis in names]
    if spacing_um is not None:
        for axis in axes[-2:]:
            axis["unit"] = "micrometer"
    spacing = spacing_um or (1.0, 1.0)
    datasets = []
    for level in range(len(shapes)):
        # Levels halve by 2 x 2 means from the origin, so scales are powers of two even where an
        # odd side was rounded up, and the first pixel's centre moves inwards.
        scale = [1.0] * (len(names) - 2) + [side * 2**level for side in spacing]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if level:
            shift = [0.0] * (len(names) - 2) + [side * (2**level - 1) / 2 for side in spacing]
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {"name": name, "axes": axes, "datasets": datasets}
    if len(shapes) > 1:
        multiscale["type"] = "mean"
    return {"ome": {"version": "0.5", "multiscales": [multiscale]}}
