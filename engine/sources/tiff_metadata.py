"""Which pages of a TIFF belong together: OME-XML and ImageJ.

Sources: OME-TIFF specification and OME schema 2016-06 (Open Microscopy Environment); ImageJ 1.x,
`ij.io.FileSaver.getDescriptionString` and `ij.io.TiffEncoder`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from engine.errors import SourceUnreadable
from engine.sources.density import UM_PER_INCH, spacing_from_density
from engine.sources.tiff_ifd import MAX_PAGES, Ifd

# Length units of the OME schema and of ImageJ, micrometres.
_UNITS_UM = {
    "pm": 1e-6,
    "Å": 1e-4,
    "A": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,  # U+00B5, micro sign
    "μm": 1.0,  # U+03BC, Greek mu
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "\\u00B5m": 1.0,  # ImageJ writes what is not ASCII as six characters
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "inch": UM_PER_INCH,
    "in": UM_PER_INCH,
}


@dataclass(frozen=True, slots=True)
class Group:
    """The pages that make one image: one for each channel (or for all, where pages have colour)."""

    pages: tuple[int, ...]
    place: tuple[int, int] | None = None
    series: int = 0
    spacing_um: tuple[float, float] | None = None


def is_imagej(description: bytes) -> bool:
    """Tell whether ImageJ wrote a description."""
    return description.startswith(b"ImageJ=")


def is_ome(description: bytes) -> bool:
    """Tell whether a description is OME-XML."""
    return description[:5] in (b"<?xml", b"<OME ", b"<OME>") and b"<OME" in description[:4096]


def parse_imagej(description: bytes) -> dict[str, str]:
    """Return the ``name=value`` lines of an ImageJ description."""
    lines = description.decode("utf-8", "replace").splitlines()
    return {name: value for name, mark, value in (line.partition("=") for line in lines) if mark}


def imagej_count(fields: dict[str, str]) -> int:
    """Return the number of 2-D planes that ImageJ says a file has; 1 where it says nothing.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if the number makes no sense.
    """
    count = _whole(fields.get("images", "1"))
    if count > MAX_PAGES:
        raise SourceUnreadable("unsupported", f"more than {MAX_PAGES} pages")
    return count


def group_imagej(fields: dict[str, str], pages: int) -> list[Group] | None:
    """Group the pages of an ImageJ stack; channels run fastest, then z, then t.

    Returns
    -------
    None where the numbers do not agree with the pages: then each page is an image of its own.
    """
    c, z, t = (_whole(fields.get(name, "1")) for name in ("channels", "slices", "frames"))
    if pages < 2 or c * z * t != pages:
        return None
    return [
        Group(
            tuple(range((i * z + j) * c, (i * z + j + 1) * c)),
            (i, j) if z * t > 1 else None,
        )
        for i in range(t)
        for j in range(z)
    ]


def imagej_spacing(fields: dict[str, str], ifd: Ifd) -> tuple[float, float] | None:
    """Return ImageJ's calibration: resolution in pixels per ``unit``; (y, x), micrometres."""
    unit = _UNITS_UM.get(fields.get("unit", "").strip())
    density = read_density(ifd)
    if unit is None or density is None:
        return None
    if unit == UM_PER_INCH:
        # ImageJ fills "inch" in when it opens an image that carries a printing density.
        return spacing_from_density(*density, UM_PER_INCH)
    spacing = unit / density[0], unit / density[1]
    return spacing if all(math.isfinite(step) and step > 0 for step in spacing) else None


def read_density(ifd: Ifd) -> tuple[float, float] | None:
    """Return YResolution and XResolution (283, 282), pixels per unit, or None."""
    found = []
    for tag in (283, 282):
        values = ifd.numbers(tag, 1)
        if values is None or values.shape != (1, 2):
            return None
        above, below = values[0].tolist()
        if above <= 0 or below <= 0:
            return None
        found.append(above / below)
    return found[0], found[1]


def group_ome(xml: bytes, pages: int, samples: int) -> list[Group] | None:
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
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        # The schema has neither, and entities are how XML inflates.
        raise SourceUnreadable("corrupt", "the OME-XML declares entities")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise SourceUnreadable("corrupt", "the OME-XML can't be parsed") from None
    groups: list[Group] = []
    unnamed = 0  # next page of images without TiffData
    images = [pixels for image in _named(root, "Image") for pixels in _named(image, "Pixels")]
    for series, pixels in enumerate(images):
        sizes = {axis: _whole(pixels.get(f"Size{axis}", "1")) for axis in "CZT"}
        if sizes["C"] % samples == 0:
            sizes["C"] //= samples
        if math.prod(sizes.values()) > MAX_PAGES:
            raise SourceUnreadable("unsupported", f"more than {MAX_PAGES} pages")
        placed = _place_pages(pixels, sizes, root.get("UUID"), unnamed)
        unnamed += math.prod(sizes.values())
        spacing = _ome_spacing(pixels)
        for t in range(sizes["T"]):
            for z in range(sizes["Z"]):
                found = [placed.get((c, z, t)) for c in range(sizes["C"])]
                chosen = tuple(page for page in found if page is not None)
                if not chosen:
                    continue
                if len(chosen) < len(found):
                    raise SourceUnreadable("corrupt", "the OME-XML leaves channels out")
                if max(chosen) >= pages:
                    raise SourceUnreadable("truncated", "pages that the OME-XML names are missing")
                place = (t, z) if sizes["Z"] * sizes["T"] > 1 else None
                groups.append(Group(chosen, place, series, spacing))
    return groups or None


def _place_pages(
    pixels: ElementTree.Element, sizes: dict[str, int], own: str | None, first: int
) -> dict[tuple[int, int, int], int]:
    """Map (c, z, t) to the page, for the planes that are in this file."""
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    if sorted(order) != ["C", "T", "Z"]:
        raise SourceUnreadable("corrupt", "the OME-XML has no such order of dimensions")
    total = math.prod(sizes.values())
    blocks = list(_named(pixels, "TiffData"))
    placed: dict[tuple[int, int, int], int] = {}
    if not blocks:
        return {_unravel(i, order, sizes): first + i for i in range(total)}
    for block in blocks:
        uuid = next(_named(block, "UUID"), None)
        if uuid is not None and own is not None and (uuid.text or "").strip() != own:
            continue  # in another file of the set
        page, count = block.get("IFD"), block.get("PlaneCount")
        start, stride = 0, 1
        for axis in order:
            start += stride * _whole(block.get(f"First{axis}", "0"), least=0)
            stride *= sizes[axis]
        # Specification: without a count, a block with IFD is one plane, one without is all.
        due = _whole(count) if count is not None else (1 if page is not None else total - start)
        if start + due > total:
            raise SourceUnreadable("corrupt", "the OME-XML places more planes than it has")
        offset = _whole(page or "0", least=0)
        for i in range(due):
            placed[_unravel(start + i, order, sizes)] = offset + i
    return placed


def _unravel(index: int, order: str, sizes: dict[str, int]) -> tuple[int, int, int]:
    at = {}
    for axis in order:
        index, at[axis] = divmod(index, sizes[axis])
    return at["C"], at["Z"], at["T"]


def _ome_spacing(pixels: ElementTree.Element) -> tuple[float, float] | None:
    steps = []
    for axis in "YX":
        unit = _UNITS_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            step = float(pixels.get(f"PhysicalSize{axis}", "nan")) * (unit or math.nan)
        except ValueError:
            return None
        if not (math.isfinite(step) and step > 0):
            return None
        steps.append(step)
    return steps[0], steps[1]


def _named(parent: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the children of a name in any version's namespace."""
    return (child for child in parent if child.tag.rpartition("}")[2] == name)


def _whole(text: str, least: int = 1) -> int:
    # int() takes signs, underscores and other scripts' digits; metadata has ten digits at most.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) < least:
        raise SourceUnreadable("corrupt", "a number of the metadata makes no sense")
    return int(text)
