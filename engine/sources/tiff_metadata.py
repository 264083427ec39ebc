"""Which pages of a TIFF belong together: OME-XML and ImageJ.

The placing of OME's pages is ours, not tifffile's series: those allocate what the XML claims, take
planes of other files or missing ones for zeros, and know no spacing. Bounded by the file's pages.

Sources: OME-TIFF specification and OME schema 2016-06 (Open Microscopy Environment); ImageJ 1.x,
`ij.io.FileSaver.getDescriptionString` and `ij.io.TiffEncoder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.sources.density import UM_PER_INCH, spacing_from_density
from engine.sources.tiff_checks import MAX_PAGES

_MAX_PLANES = 10 * MAX_PAGES  # that one XML may name, with those of the other files of a plate

# Length units of the OME schema and of ImageJ, micrometres. U+00B5 is the micro sign, U+03BC the
# Greek mu; ImageJ writes what is not ASCII as six characters.
_UNITS_UM = {"pm": 1e-6, "Å": 1e-4, "A": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5}
_UNITS_UM |= {"m": 1e6, "inch": UM_PER_INCH, "in": UM_PER_INCH}
_UNITS_UM |= dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00B5m"), 1.0)


@dataclass(frozen=True, slots=True)
class Group:
    """The pages that make one image: one for each channel (or for all, where pages have colour)."""

    pages: tuple[int, ...]
    place: tuple[int, int] | None = None
    series: int = 0
    spacing_um: tuple[float, float] | None = None


def is_ome(description: str) -> bool:
    """Tell whether a description is OME-XML, also where its end is missing."""
    return description.startswith(("<?xml", "<OME ", "<OME>")) and "<OME" in description[:4096]


def imagej_count(fields: Mapping[str, Any], name: str) -> int:
    """Return a number of ImageJ's description; 1 where it says nothing.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if it makes no sense, ``unsupported`` if it is more than a file may have.
    """
    return _bounded(_whole(str(fields.get(name, 1))))


def group_imagej(fields: Mapping[str, Any], pages: int) -> list[Group] | None:
    """Group the pages of an ImageJ stack; channels run fastest, then z, then t.

    Returns
    -------
    None where the numbers do not agree with the pages: then each page is an image of its own.
    """
    t, z, c = (imagej_count(fields, name) for name in ("frames", "slices", "channels"))
    if pages < 2 or c * z * t != pages:
        return None
    at = np.arange(pages).reshape(t, z, c)
    return [
        Group(tuple(at[i, j].tolist()), (i, j) if z * t > 1 else None) for i, j in np.ndindex(t, z)
    ]


def imagej_spacing(
    unit_name: str, density: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return ImageJ's calibration: ``density`` in pixels per unit; (y, x), micrometres."""
    unit = _UNITS_UM.get(unit_name.strip())
    if unit is None or density is None:
        return None
    if unit == UM_PER_INCH:
        # ImageJ fills "inch" in when it opens an image that carries a printing density.
        return spacing_from_density(*density, UM_PER_INCH)
    return _positive(unit / density[0], unit / density[1])


def group_ome(xml: str, pages: int, samples: int) -> list[Group] | None:
    """Group the pages of an OME-TIFF by its `TiffData` blocks.

    Parameters
    ----------
    xml
        The description of the first page.
    pages
        Pages in the file.
    samples
        Values a pixel of the first page: channels that one page holds already.

    Returns
    -------
    One group for each (series, t, z) whose pages are in this file; None where the metadata is in
    another file. Pages that the metadata does not name are not images of the file.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if the XML makes no sense, ``truncated`` if it names pages that are not there.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        # The schema has neither, and entities are how XML inflates.
        raise SourceUnreadable("corrupt", "the OME-XML declares entities")
    try:
        root = fromstring(xml)
    except (ParseError, ValueError, LookupError):
        raise SourceUnreadable("corrupt", "the OME-XML can't be parsed") from None
    groups: list[Group] = []
    unnamed = 0  # next page of images without TiffData
    for series, pixels in enumerate(root.findall("{*}Image/{*}Pixels")):
        sizes = {axis: _whole(pixels.get(f"Size{axis}", "1")) for axis in "CZT"}
        if sizes["C"] % samples == 0:
            sizes["C"] //= samples
        total = _bounded(math.prod(sizes.values()))
        placed = _place_pages(pixels, sizes, root.get("UUID"), unnamed)
        unnamed = _bounded(unnamed + total, _MAX_PLANES)
        spacing = _ome_spacing(pixels)
        for t, z in np.argwhere((placed >= 0).any(axis=2)).tolist():
            chosen = tuple(placed[t, z].tolist())
            if min(chosen) < 0:
                raise SourceUnreadable("corrupt", "the OME-XML leaves channels out")
            if max(chosen) >= pages:
                raise SourceUnreadable("truncated", "pages that the OME-XML names are missing")
            place = (t, z) if sizes["Z"] * sizes["T"] > 1 else None
            groups.append(Group(chosen, place, series, spacing))
    return groups or None


def _place_pages(
    pixels: Element, sizes: dict[str, int], own: str | None, first: int
) -> NDArray[np.int64]:
    """Return the page of each (t, z, c), -1 for those that are not in this file."""
    order = pixels.get("DimensionOrder", "XYCZT")[:1:-1]  # slowest first
    if sorted(order) != ["C", "T", "Z"]:
        raise SourceUnreadable("corrupt", "the OME-XML has no such order of dimensions")
    shape = [sizes[axis] for axis in order]
    total = math.prod(shape)
    placed = np.full(total, -1)
    all_pages = Element("TiffData", IFD=str(first), PlaneCount=str(total))
    left = total
    for block in pixels.findall("{*}TiffData") or [all_pages]:
        uuid = block.findtext("{*}UUID")
        if uuid is not None and own is not None and uuid.strip() != own:
            continue  # in another file of the set
        page, count = block.get("IFD"), block.get("PlaneCount")
        at = [_whole(block.get(f"First{axis}", "0"), least=0) for axis in order]
        start = int(np.ravel_multi_index(at, shape))
        # Specification: without a count, a block with IFD is one plane, one without is all.
        due = _whole(count) if count is not None else (1 if page is not None else total - start)
        left -= due
        if left < 0 or start + due > total:
            raise SourceUnreadable("corrupt", "the OME-XML places more planes than it has")
        placed[start : start + due] = _whole(page or "0", least=0) + np.arange(due)
    return placed.reshape(shape).transpose([order.index(axis) for axis in "TZC"])


def _ome_spacing(pixels: Element) -> tuple[float, float] | None:
    units = [_UNITS_UM.get(pixels.get(f"PhysicalSize{a}Unit", "µm"), math.nan) for a in "YX"]
    try:
        y, x = (float(pixels.get(f"PhysicalSize{a}", "nan")) for a in "YX")
    except ValueError:
        return None
    return _positive(y * units[0], x * units[1])


def _positive(y: float, x: float) -> tuple[float, float] | None:
    return (y, x) if all(math.isfinite(step) and step > 0 for step in (y, x)) else None


def _bounded(count: int, most: int = MAX_PAGES) -> int:
    if count > most:
        raise SourceUnreadable("unsupported", f"more than {most} pages")
    return count


def _whole(text: str, least: int = 1) -> int:
    # int() takes signs, underscores and other scripts' digits; metadata has ten digits at most.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) < least:
        raise SourceUnreadable("corrupt", "a number of the metadata makes no sense")
    return int(text)
