"""Measures of the objects of a label image, under the names of scikit-image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.objects.borders import border_columns
from engine.kernels.objects.ellipse import COLUMNS as ELLIPSE
from engine.kernels.objects.ellipse import ellipse_columns
from engine.kernels.objects.extents import Extents, extents_of_runs
from engine.kernels.objects.hulls import hull_columns
from engine.kernels.objects.runs import find_runs
from engine.kernels.objects.values import STATISTICS, value_columns

EXTENT = ("label", "area", "bbox", "centroid", "extent", "equivalent_diameter_area")
BORDER = ("perimeter", "euler_number")
HULL = ("solidity", "area_convex", "feret_diameter_max")

SHAPES = (*EXTENT, *ELLIPSE, *BORDER, *HULL)
"""Properties that need no intensities."""

PROPERTIES = (*SHAPES, *STATISTICS)

WIDTHS = {"bbox": 4, "centroid": 2}
"""Numbers of columns of properties that have more than one, whatever the image."""


def column_names(name: str, channels: int) -> list[str]:
    """Return the columns of a property in an image with some channels.

    Examples
    --------
    >>> column_names("centroid", 3), column_names("area", 3)
    (['centroid-0', 'centroid-1'], ['area'])
    """
    width = channels if name in STATISTICS else WIDTHS.get(name)
    return [name] if width is None else [f"{name}-{n}" for n in range(width)]


def _extent_columns(extents: Extents) -> dict[str, NDArray[Any]]:
    area, box = extents.area.astype(np.float64), extents.box
    centroid = extents.sums / area[:, None]
    return {
        "label": extents.label,
        "area": area,
        **{f"bbox-{n}": box[:, n] for n in range(4)},
        **{f"centroid-{n}": centroid[:, n] for n in range(2)},
        "extent": area / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])),
        "equivalent_diameter_area": np.sqrt(4 * area / np.pi),
    }


def measure_objects(
    labels: NDArray[Any], intensities: NDArray[Any] | None, properties: Iterable[str]
) -> dict[str, NDArray[Any]]:
    """Measure the objects of a label image as `skimage.measure.regionprops_table` does.

    Names, definitions and types of columns are scikit-image's (2-D, a spacing of 1 pixel), whatever
    its definition says about single pixels and lines. Statistics of float32 are more precise than
    its own, which add up in float32. Where it returns rounding errors (the minor axis of points on
    a line, the orientation of an object without a longer axis), the columns here are exact.

    Parameters
    ----------
    labels
        (y, x) of any integer type; an object is all pixels of one positive label, connected or
        not. There may be gaps between labels.
    intensities
        (c, y, x) of real values, or None.
    properties
        Names out of `PROPERTIES`. Only what they need is computed.

    Returns
    -------
    Columns in the order of the properties, one element an object, by ascending label.

    Raises
    ------
    ParameterError
        If the labels are not a plane of integers, the intensities do not fit them, or a property
        is unknown or needs intensities.

    Examples
    --------
    >>> labels = np.array([[1, 1, 0], [0, 0, 4]])
    >>> grey = np.array([[[5, 6, 0], [0, 0, 9]]])
    >>> found = measure_objects(labels, grey, ("label", "area", "intensity_mean"))
    >>> {name: column.tolist() for name, column in found.items()}
    {'label': [1, 4], 'area': [2.0, 1.0], 'intensity_mean-0': [5.5, 9.0]}
    """
    wanted = tuple(properties)
    unknown = [name for name in wanted if name not in PROPERTIES]
    if unknown:
        raise ParameterError("properties", unknown[0], f"one of {', '.join(PROPERTIES)}")
    if intensities is None:
        if not set(wanted) <= set(SHAPES):
            raise ParameterError("intensities", None, "given for properties of intensities")
    elif intensities.ndim != 3 or intensities.shape[1:] != labels.shape:
        raise ParameterError("intensities", f"of shape {intensities.shape}", "(c, y, x) of labels")
    label, runs = find_runs(labels)
    extents = extents_of_runs(label, runs, labels.shape)
    columns = _extent_columns(extents)
    if any(name in ELLIPSE for name in wanted):
        columns |= ellipse_columns(extents, runs)
    if any(name in BORDER for name in wanted):
        columns |= border_columns(runs, labels.shape)
    if any(name in HULL for name in wanted):
        columns |= hull_columns(extents, runs)
    if intensities is not None and any(name in STATISTICS for name in wanted):
        largest = int(extents.area.max(initial=0))
        columns |= value_columns(intensities, runs, largest, "intensity_median" in wanted)
    channels = 0 if intensities is None else len(intensities)
    return {
        column: np.ascontiguousarray(columns[column])
        for name in wanted
        for column in column_names(name, channels)
    }
