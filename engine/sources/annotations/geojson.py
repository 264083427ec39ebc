"""GeoJSON as written and read by QuPath (RFC 7946, with pixels for coordinates).

QuPath's first pixel covers 0 to 1, so its centre is at 0.5. A file's name refers to its image:
``slide.tif.geojson`` or ``slide.geojson`` to ``slide.tif``, or to ``slide.ome.tif``; pixels are
those of its full resolution. In a series it is the image at QuPath's ``plane``, which QuPath omits
for the first plane; if no object of a file has one, the image is ambiguous.

A structure is the union of the polygons of its class, with their holes (even-odd within a polygon).
Points and lines enclose no area, and are reported. The nucleus of a cell is a separate structure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError, SourceUnreadable
from engine.sources.annotations.base import (
    Drawing,
    Target,
    checked_ring,
    number_option,
    usable,
)

SUFFIXES = (".geojson", ".geojson.json")

ORIGIN = 0.5
"""QuPath's coordinate of the first pixel's centre."""

RULE = 3
"""Version of the rules for reading: 1 numbered the polygons of a class, 2 supported neither planes
nor nuclei."""

OTHERS = {"LineString": "unclosed", "MultiLineString": "unclosed", "nothing": "empty"}
"""Reasons to reject geometries other than polygons; points and all other kinds are unsupported."""

NUCLEUS = ": nucleus"
"""Suffix of a cell's structure for its nucleus."""

UNCLASSIFIED = "annotation"
"""Structure of a feature without a class, name or kind."""


FIRST = (0, 0)
"""Plane that QuPath omits."""


class _Outline(NamedTuple):
    structure: str
    geometry: Any
    plane: tuple[int, int] | None


@dataclass(frozen=True)
class GeoJsonReader:
    """Reader of polygons.

    Parameters
    ----------
    origin
        The coordinate of the first pixel's centre; see `fill_contour`.
    """

    origin: float = ORIGIN

    @property
    def context(self) -> str:
        """Options, as text."""
        return repr((self.origin, RULE))

    def claims(self, path: str) -> bool:
        """Return True for files with a GeoJSON suffix."""
        return path.lower().endswith(SUFFIXES)

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read the polygons of one image.

        Raises
        ------
        SourceUnreadable
        """
        if not data.strip():
            raise SourceUnreadable("empty", "there is nothing in it")
        stem = next(path[: -len(s)] for s in reversed(SUFFIXES) if path.lower().endswith(s))
        target = Target((stem, f"{stem}.*", f"{stem}.ome.*"))
        try:
            outlines = [o for f in _features(json.loads(data)) for o in _outlines(f)]
            said = any(outline.plane is not None for outline in outlines)
            drawings = [
                drawing
                for outline in outlines
                for drawing in self._drawings(
                    replace(target, place=(outline.plane or FIRST) if said else None),
                    outline.structure,
                    outline.geometry,
                )
            ]
        except (ValueError, RecursionError) as error:
            if isinstance(error, SourceUnreadable):
                raise
            raise SourceUnreadable("not_numbers", "it is not JSON") from None
        except (TypeError, KeyError, AttributeError, IndexError):
            raise SourceUnreadable("corrupt", "it is not GeoJSON") from None
        return usable(drawings)

    def _drawings(self, target: Target, structure: str, geometry: Any) -> Iterator[Drawing]:
        """Yield the polygons of a geometry, and a rejected drawing for any other kind."""
        kind = "nothing" if geometry is None else geometry["type"]
        if kind == "GeometryCollection":
            for one in geometry["geometries"]:
                yield from self._drawings(target, structure, one)
        elif kind in ("Polygon", "MultiPolygon"):
            polygons = geometry["coordinates"]
            for polygon in [polygons] if kind == "Polygon" else polygons:
                yield from self._polygon(target, structure, polygon)
        else:
            reason = OTHERS.get(kind, "unsupported")
            yield Drawing(target, structure, (), reason=reason, encloses=False)

    def _polygon(self, target: Target, structure: str, polygon: Any) -> Iterator[Drawing]:
        rings: list[NDArray[np.float64]] = []
        for n, positions in enumerate(polygon or [[]]):
            try:
                rings.append(self._ring(positions))
            except SourceUnreadable as error:
                encloses = error.reason != "too_few_points"
                yield Drawing(target, structure, (), reason=error.reason, encloses=encloses)
                if encloses or n == 0:
                    return
        yield Drawing(target, structure, tuple(rings))

    def _ring(self, positions: Any) -> NDArray[np.float64]:
        for position in positions:
            if not isinstance(position, Sequence) or isinstance(position, str):
                raise SourceUnreadable("corrupt", "a position is not a list")
            if len(position) < 2:
                raise SourceUnreadable("odd_count", "a position has one number")
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in position):
                raise SourceUnreadable("not_numbers", "a position is not made of numbers")
        points = np.array([position[:2] for position in positions], np.float64).reshape(-1, 2)
        if len(points) > 1 and np.isfinite(points).all() and (points[0] != points[-1]).any():
            raise SourceUnreadable("unclosed", "the last position of a ring is not the first")
        return checked_ring(points[:, ::-1] - self.origin)


def _features(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the features of a collection, of a list (older QuPath), or a single one."""
    if isinstance(value, list):
        for one in value:
            yield from _features(one)
    elif value["type"] == "FeatureCollection":
        yield from value["features"]
    elif value["type"] == "Feature":
        yield value
    else:
        yield {"geometry": value}


def _outlines(feature: Mapping[str, Any]) -> Iterator[_Outline]:
    """Yield the outline of an object, and that of its nucleus if it is a cell."""
    structure = _structure(feature)
    plane = _plane(feature, feature["geometry"])
    yield _Outline(structure, feature["geometry"], plane)
    nucleus = feature.get("nucleusGeometry")
    if nucleus is not None:
        yield _Outline(structure + NUCLEUS, nucleus, _plane(feature, nucleus) or plane)


def _plane(feature: Mapping[str, Any], geometry: Any) -> tuple[int, int] | None:
    """Return the (t, z) of an object: QuPath writes them in the geometry; missing values are 0.

    The channel is ignored: an image holds all its channels.
    """
    holders = (geometry or {}, feature, feature.get("properties") or {})
    plane = next((h["plane"] for h in holders if h.get("plane") is not None), None)
    if plane is None:
        return None
    t, z = (plane.get(axis, 0) for axis in "tz")
    if not all(type(n) in (int, float) and n >= 0 and n == int(n) for n in (t, z)):
        raise SourceUnreadable("corrupt", "a plane is not a number")
    return int(t), int(z)


def _structure(feature: Mapping[str, Any]) -> str:
    """Return the class of a feature as QuPath shows it ("Tumor: Positive"), else its name or kind.

    Examples
    --------
    >>> _structure({"properties": {"classification": {"names": ["Tumor", "Positive"]}}})
    'Tumor: Positive'
    >>> _structure({"properties": {"objectType": "cell"}}), _structure({})
    ('cell', 'annotation')
    """
    properties = feature.get("properties") or {}
    known = properties.get("classification") or {}
    names = known
    if isinstance(known, Mapping):
        names = known.get("names") or known.get("name") or properties.get("name")
    if isinstance(names, list):
        names = ": ".join(str(name) for name in names)
    kind = properties.get("objectType") or properties.get("object_type")
    return str(names or kind or UNCLASSIFIED)


def create(folder: Path, options: Mapping[str, object]) -> GeoJsonReader:
    """Return a reader.

    Parameters
    ----------
    options
        ``origin``, a number.

    Raises
    ------
    ParameterError
    """
    unknown = set(options) - {"origin"}
    if unknown:
        raise ParameterError(min(unknown), options[min(unknown)], "origin")
    return GeoJsonReader(number_option(options, "origin", ORIGIN))
