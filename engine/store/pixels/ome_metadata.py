"""OME-Zarr metadata (NGFF 0.5, https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.store.pixels.layout import SeriesGeometry

AXES = {
    "t": {"name": "t", "type": "time"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space"},
    "y": {"name": "y", "type": "space"},
    "x": {"name": "x", "type": "space"},
}


def group_attributes(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    spacing_um: tuple[float, float] | None,
    lattice: SeriesGeometry | None = None,
    channel_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the attributes of an image group.

    Parameters
    ----------
    name
        Name of the image.
    shapes
        Shapes of the levels, finest first; axes t,c,y,x or t,c,z,y,x.
    spacing_um
        Pixel spacing (y, x) of the finest level, micrometres; None if it is unknown, and then the
        axes have no unit.
    lattice
        Of a series: steps in time and across slices, and its position in the patient. The
        translation is along the image's own axes; the attribute ``dicom`` gives their orientation
        in the patient, and ``voxel_to_patient_mm`` the affine that a file without a header states.
    channel_names
        Names common to all its planes; the attribute ``channel_names``, which stacks of an earlier
        version have instead of the block ``omero``.
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
    attributes: dict[str, Any] = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    if channel_names:
        attributes["channel_names"] = list(channel_names)
    if lattice is not None and len(names) == 5:
        _place_in_patient(axes, transforms, lattice)  # a series has one level
        if lattice.orientation is not None:
            attributes["dicom"] = {
                "ImageOrientationPatient": list(lattice.orientation),
                "ImagePositionPatient": list(lattice.position_mm or ()),
            }
        if lattice.affine is not None:
            attributes["voxel_to_patient_mm"] = [list(row) for row in lattice.affine]
    return attributes


def _place_in_patient(
    axes: list[dict[str, str]], transforms: list[dict[str, Any]], lattice: SeriesGeometry
) -> None:
    scale = transforms[0]["scale"]
    if lattice.step_ms:
        axes[0]["unit"], scale[0] = "millisecond", lattice.step_ms
    if lattice.distance_um:
        axes[2]["unit"], scale[2] = "micrometer", lattice.distance_um
    if lattice.origin_um is not None and lattice.distance_um:
        transforms.append({"type": "translation", "translation": [0.0, 0.0, *lattice.origin_um]})
