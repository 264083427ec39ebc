"""Drawings as GeoJSON files of QuPath."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.contours.geometry import holds_point, ring_area_px
from engine.kernels.contours.layers import Rings, split_layers
from engine.sources.annotations.geojson import ORIGIN


def write_geojson(
    contours: Mapping[str, Rings], *, origin: float = ORIGIN, objects: str = "annotation"
) -> bytes:
    """Encode contours as a FeatureCollection for QuPath, one feature per structure.

    Coordinates are written with all their digits, so reading them gives identical masks if
    ``origin`` is a multiple of one half, and points within a rounding of the last digit.

    Parameters
    ----------
    contours
        Rings by structure, pixels.
    origin
        Coordinate of the first pixel's centre.
    objects
        QuPath's kind of object.
    """
    features = []
    for structure, rings in contours.items():
        polygons = [
            [_positions(ring, origin) for ring in polygon]
            for layer in split_layers(rings)
            for polygon in polygons_of(layer)
        ]
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) > 1:
            geometry = {"type": "MultiPolygon", "coordinates": polygons}
        properties = {"objectType": objects, "classification": {"name": structure}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, allow_nan=False).encode()


def polygons_of(rings: Rings) -> list[list[NDArray[np.float64]]]:
    """Group the rings of a layer into polygons, each an outer ring followed by its holes.

    Outer rings run counter-clockwise in the sense of RFC 7946 (y up), holes clockwise.
    """
    depth, owners = [], []
    for n, ring in enumerate(rings):
        around = [
            m for m, o in enumerate(rings) if m != n and holds_point([o], ring[0][0], ring[0][1])
        ]
        depth.append(len(around))
        # Among the outer rings around a hole, its own is the innermost: the smallest.
        owners.append(min(around, key=lambda m: abs(ring_area_px(rings[m])), default=n))
    found: dict[int, list[NDArray[np.float64]]] = {
        n: [_turned(ring, outer=True)] for n, ring in enumerate(rings) if depth[n] % 2 == 0
    }
    for n, ring in enumerate(rings):
        if depth[n] % 2:
            found[owners[n]].append(_turned(ring, outer=False))
    return list(found.values())


def _turned(ring: NDArray[np.float64], *, outer: bool) -> NDArray[np.float64]:
    return ring if (ring_area_px(ring) > 0) == outer else ring[::-1]


def _positions(ring: NDArray[np.float64], origin: float) -> list[list[float]]:
    closed = np.vstack([ring, ring[:1]]) + origin
    return [[x, y] for y, x in closed.tolist()]
