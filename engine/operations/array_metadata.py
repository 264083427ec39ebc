"""Conversion between images and xarray DataArrays, with their metadata.

A run calls a function with the same DataArray that `engine.Cohort.images` gives with
``stored=True``, built by the same code. So a result that a user tries interactively equals the
result of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.kernels.colour import with_luminance
from engine.kernels.noise import noise_sd
from engine.store.path_pattern import FIELDS

if TYPE_CHECKING:
    import xarray as xr

NAMED = ("image_id", *FIELDS)
"""Catalog identity of an image, besides its source: attributes of the DataArray."""

SAME_SPACING = 1e-9
"""Minimum relative difference between the spacing from coordinates and the spacing from attributes.
Smaller differences are rounding, and the attribute wins."""


def as_array(
    pixels: NDArray[Any],
    spacing_um: tuple[float, float] | None,
    origin: tuple[int, int] = (0, 0),
    attributes: Mapping[str, Any] | None = None,
    channel_names: Sequence[str] = (),
) -> xr.DataArray:
    """Return pixels (c, y, x) as a DataArray, with coordinates in micrometres if possible.

    Parameters
    ----------
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    origin
        Position (y, x) of the first pixel within the whole image, pixels.
    attributes
        Further attributes of the image; its ``name`` also becomes the array's name.
    channel_names
        Names of the channels, which become the coordinate ``c``.
    """
    import xarray as xr

    coordinates: dict[str, Any] = {}
    labels = channel_labels(channel_names)
    if len(labels) == len(pixels):
        coordinates["c"] = ("c", labels)
    if spacing_um is not None:
        for axis, name in enumerate(("y", "x")):
            places = np.arange(pixels.shape[1 + axis]) + origin[axis]
            coordinates[name] = (name, places * spacing_um[axis], {"units": "micrometer"})
    said = {**(attributes or {}), "spacing_um": spacing_um}
    called = said.get("name") or None
    return xr.DataArray(pixels, dims=("c", "y", "x"), coords=coordinates, name=called, attrs=said)


def channel_labels(names: Sequence[str]) -> list[str]:
    """Return the labels of the coordinate ``c``: names, or numbers for channels without.

    Empty if two are equal, since xarray aligns arrays only by unique labels.

    Examples
    --------
    >>> channel_labels(["DAPI", ""]), channel_labels(["DAPI", "DAPI"])
    (['DAPI', '1'], [])
    """
    labels = [name or str(n) for n, name in enumerate(names)]
    return labels if len({*labels}) == len(labels) else []


def channel_names_of(array: Any) -> tuple[str, ...]:
    """Return the names of a DataArray's channels, also of one channel of it; empty without any."""
    along = getattr(array, "coords", {}).get("c")
    if along is None or along.ndim > 1 or along.dtype.kind not in "UO":
        return ()
    return tuple(map(str, np.atleast_1d(along.values).tolist()))


def attributes_of(
    source: str,
    fields: Mapping[str, str],
    rescale: tuple[float, float] | None,
    separate: bool,
) -> dict[str, Any]:
    """Return the attributes that describe an image, except its spacing.

    Parameters
    ----------
    source, fields, rescale
        See `engine.Image`.
    separate
        Whether the channels are independent measurements, not colours: each has its own noise.
    """
    said: dict[str, Any] = {"source": source, **fields}
    if rescale is not None:
        said["rescale"] = rescale
    return {**said, "separate_channels": True} if separate else said


def spacing_of(array: Any) -> tuple[float, float] | None:
    """Return a DataArray's pixel spacing (y, x), micrometres; this also works for slices of it."""
    stated = getattr(array, "attrs", {}).get("spacing_um")
    coordinates = getattr(array, "coords", {})
    sides: list[float] = []
    for axis, name in enumerate(("y", "x")):
        along = coordinates.get(name)
        said = None if stated is None else float(stated[axis])
        if along is not None and along.ndim == 1 and along.size > 1:
            if along.attrs.get("units") == "micrometer":
                side = abs(float(along[-1]) - float(along[0])) / (along.size - 1)
                exact = said is not None and abs(side - said) <= SAME_SPACING * said
                sides.append(said if exact and said is not None else side)
        elif said is not None:  # a single row, for example
            sides.append(said)
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None


def named(image_id: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the catalog identity of an image, with empty text for missing fields."""
    return {"image_id": image_id, **{name: fields.get(name) or "" for name in FIELDS}}


def names_of(array: Any) -> dict[str, str]:
    """Return the catalog identity of the image in a DataArray; empty for any other array."""
    attributes = getattr(array, "attrs", {})
    return {n: str(attributes[n]) for n in NAMED if n in attributes} if is_described(array) else {}


def is_described(array: Any) -> bool:
    """Return whether an array is an image of a cohort."""
    return "image_id" in getattr(array, "attrs", {})


def rescale_of(array: Any) -> tuple[float, float] | None:
    """Return a DataArray's slope and intercept from stored values to modality units."""
    given = getattr(array, "attrs", {}).get("rescale")
    return None if given is None else (float(given[0]), float(given[1]))


def in_units(stored: NDArray[Any], rescale: tuple[float, float]) -> NDArray[np.float64]:
    """Convert stored values to modality units (PS3.3, C.11.1.1.2)."""
    slope, intercept = rescale
    return stored * np.float64(slope) + np.float64(intercept)


def stored_values(array: Any) -> NDArray[Any]:
    """Return an array's values as stored, which are the values that a run passes.

    Raises
    ------
    UsageError
        If modality-unit values were modified and have no equivalent stored values.
    """
    values = np.asarray(array)
    kind = getattr(array, "attrs", {}).get("stored_dtype")
    rescale = rescale_of(array)
    if kind is None or rescale is None:
        return values
    with np.errstate(all="ignore"):
        stored = (values - rescale[1]) / rescale[0]
        stored = (np.rint(stored) if np.dtype(kind).kind in "iu" else stored).astype(kind)
        same = np.array_equal(in_units(stored, rescale), values, equal_nan=True)
    if not same:
        raise UsageError(
            "The array's values are in modality units and were changed, so they can't be put back "
            "to stored ones, which a run gives. Take the image of cohort.images(stored=True)."
        )
    return stored


def noise_of(array: Any, pixels: NDArray[Any]) -> tuple[float, ...]:
    """Return the noise of a cohort's image, estimated as at ingest; empty for any other array.

    The estimate uses the given pixels, since arrays keep their attributes in calculations.
    """
    if not is_described(array) or pixels.dtype.kind not in "biuf":
        return ()
    separate = bool(array.attrs.get("separate_channels", False))
    return tuple(noise_sd(plane) for plane in with_luminance(pixels, separate))
