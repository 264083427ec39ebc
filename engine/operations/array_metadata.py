"""An image as a DataArray: what `engine.Cohort.images` gives, and what a tried one says of itself.

A run calls a function with the DataArray that `engine.Cohort.images` gives with ``stored=True``,
made by the same lines, so an answer that is tried is the answer that a run gives.
"""

from __future__ import annotations

from collections.abc import Mapping
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
"""What the catalog calls an image, beside its source: attributes of the DataArray."""

SAME_SPACING = 1e-9
"""Least share by which a spacing that coordinates say differs from the one that the attributes say:
below it, it is that one, and the difference is rounding."""


def as_array(
    pixels: NDArray[Any],
    spacing_um: tuple[float, float] | None,
    origin: tuple[int, int] = (0, 0),
    attributes: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Return pixels (c, y, x) as a DataArray, with coordinates in micrometres where they are known.

    Parameters
    ----------
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    origin
        Position (y, x) of the first pixel within the whole image, pixels.
    attributes
        What else is said of the image; a name in it is the array's name too.
    """
    import xarray as xr

    coordinates = {}
    if spacing_um is not None:
        for axis, name in enumerate(("y", "x")):
            places = np.arange(pixels.shape[1 + axis]) + origin[axis]
            coordinates[name] = (name, places * spacing_um[axis], {"units": "micrometer"})
    said = {**(attributes or {}), "spacing_um": spacing_um}
    called = said.get("name") or None
    return xr.DataArray(pixels, dims=("c", "y", "x"), coords=coordinates, name=called, attrs=said)


def attributes_of(
    source: str,
    fields: Mapping[str, str],
    rescale: tuple[float, float] | None,
    separate: bool,
) -> dict[str, Any]:
    """Return the attributes that say what an image is, beside its spacing.

    Parameters
    ----------
    source, fields, rescale
        See `engine.Image`.
    separate
        Whether its channels are measurements of their own, and no colours: one noise a channel.
    """
    said: dict[str, Any] = {"source": source, **fields}
    if rescale is not None:
        said["rescale"] = rescale
    return {**said, "separate_channels": True} if separate else said


def spacing_of(array: Any) -> tuple[float, float] | None:
    """Return the spacing (y, x), micrometres, that a DataArray carries: slices of it included."""
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
        elif said is not None:  # of a single row, say
            sides.append(said)
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None


def named(image_id: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Return what the catalog calls an image, with empty text for a field that it lacks."""
    return {"image_id": image_id, **{name: fields.get(name) or "" for name in FIELDS}}


def names_of(array: Any) -> dict[str, str]:
    """Return what the catalog calls the image that a DataArray holds; nothing of another array."""
    attributes = getattr(array, "attrs", {})
    return {n: str(attributes[n]) for n in NAMED if n in attributes} if is_described(array) else {}


def is_described(array: Any) -> bool:
    """Tell whether an array is an image of a cohort."""
    return "image_id" in getattr(array, "attrs", {})


def rescale_of(array: Any) -> tuple[float, float] | None:
    """Return slope and intercept from stored values to modality units that a DataArray carries."""
    given = getattr(array, "attrs", {}).get("rescale")
    return None if given is None else (float(given[0]), float(given[1]))


def in_units(stored: NDArray[Any], rescale: tuple[float, float]) -> NDArray[np.float64]:
    """Return stored values in modality units (PS3.3, C.11.1.1.2)."""
    slope, intercept = rescale
    return stored * np.float64(slope) + np.float64(intercept)


def stored_values(array: Any) -> NDArray[Any]:
    """Return an array's values as they are stored, which are those that a run gives.

    Raises
    ------
    UsageError
        If the values are in modality units and were changed to some that no stored ones have.
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
    """Return the noise of an image of a cohort, as the ingest estimates it; nothing of another.

    Estimated of the pixels in hand, since an array keeps its attributes when it is calculated with.
    """
    if not is_described(array) or pixels.dtype.kind not in "biuf":
        return ()
    separate = bool(array.attrs.get("separate_channels", False))
    return tuple(noise_sd(plane) for plane in with_luminance(pixels, separate))
