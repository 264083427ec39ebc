"""Match annotations to images of the catalog. Pure: names in, image_ids out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.header import SAME_PLACE_MM
from engine.privacy import Pseudonyms
from engine.sources import FORMATS
from engine.sources.annotations import PlaneGeometry, Target
from engine.sources.annotations.base import OFF_PLANE_MM
from engine.sources.registry import known_suffixes
from engine.store.catalog.tables import ORPHANED, READY
from engine.store.pixels.layout import DOWNSAMPLE

MATCHING_REASONS = {
    "no_image": "The catalog has no image that matches the drawing's reference.",
    "ambiguous": "More than one image of the catalog matches the drawing's reference.",
    "other_plane": "The catalog has images of its space or file, but none in its plane: it is "
    "between slices, has another orientation, or a z or t that does not exist.",
}
"""Reasons why an annotation has no image."""

Planes = tuple[list[str], NDArray[np.float64], NDArray[np.float64]]
"""Images, with the position and normal (n, 3) of each, millimetres."""


class NoMatch(ValueError):
    """No image matches, or several do: (code, number of matches)."""


@dataclass
class ImageIndex:
    """Index of the images of a catalog, by the names that an annotation may use.

    Parameters
    ----------
    images
        The catalog's current rows.
    root
        Restrict the index to images of this root, or None for all.
    pseudonyms
        Pseudonyms of the catalog's confidential roots; plain names are looked up as well.
    slides_resized
        Whether cohort.toml requests slides at another resolution than the scanner's.
    """

    images: pa.Table
    root: str | None = None
    pseudonyms: Pseudonyms | None = None
    slides_resized: bool = False
    _by_file: dict[str, list[tuple[str, str]]] = field(default_factory=dict, repr=False)
    _by_id: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _rows: dict[str, int] = field(default_factory=dict, repr=False)
    _spaces: dict[tuple[tuple[str, ...], str | None], Planes] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        """Build the indices in one pass over the images."""
        columns = (self.images[name].to_pylist() for name in ("image_id", "source", "state"))
        for n, (image_id, source, state) in enumerate(zip(*columns, strict=True)):
            self._rows[image_id] = n
            if state not in (READY, ORPHANED):
                continue
            if self.root is not None and not source.startswith(f"{self.root}/"):
                continue
            name = source.rsplit("/", 1)[-1]
            for key in {name, f"{name.rpartition('.')[0]}.*"}:
                self._by_file.setdefault(key, []).append((source, image_id))
            self._by_id.setdefault(image_id.partition("#")[0], []).append(image_id)

    def image_of(self, target: Target, points_mm: NDArray[np.float64] | None = None) -> str:
        """Return the image_id of the image that an annotation refers to.

        Parameters
        ----------
        target
            The reference as the annotation file states it.
        points_mm
            Points (n, 3) of the annotation in patient coordinates: if its file does not name a
            single image, the image whose plane contains the points is chosen.

        Raises
        ------
        NoMatch
            ``no_image``, ``ambiguous`` or ``other_plane``.
        """
        if target.instance is None and not target.paths and points_mm is not None:
            return self._in_plane(*self._planes(target.among, target.frame_of_reference), points_mm)
        found: list[str] = []
        for name in self._names(target):
            found = list(name)
            if found:
                break
        if target.frame is not None and len(found) > 1:
            found = [i for i in found if i.endswith(f"#{target.frame - 1}")]
        if not found:
            raise NoMatch("no_image", 0)
        if target.place is not None:
            found = self._at(target.place, found)
        if len(found) > 1 and points_mm is not None:
            return self._in_plane(*self._placed(found), points_mm)
        if len(found) > 1:
            raise NoMatch("ambiguous", len(found))
        elsewhere = target.among or target.frame_of_reference
        if points_mm is not None and elsewhere and self.geometry(found[0]) is not None:
            with suppress(NoMatch):
                return self._in_plane(*self._placed(found), points_mm)
            return self._in_plane(*self._planes(target.among, target.frame_of_reference), points_mm)
        return found[0]

    def _at(self, place: tuple[int, int], image_ids: list[str]) -> list[str]:
        """Return the images at a (t, z) of their series; a single image is at (0, 0).

        Images of several files, or of a file without a series, have no (t, z): all are returned.
        """
        rows = {i: self._row(i, ("source", "t", "z")) for i in image_ids}
        files = {row["source"] for row in rows.values()}
        series = any(row["z"] is not None for row in rows.values())
        if len(files) > 1 or (not series if len(rows) > 1 else place == (0, 0)):
            return image_ids
        there = [i for i, row in rows.items() if (row["t"], row["z"]) == place]
        if not there:
            raise NoMatch("other_plane", 0)
        return there

    def _planes(self, among: tuple[str, ...], space: str | None) -> Planes:
        """Return the candidate images, with positions and normals."""
        key = (among, space)
        if key not in self._spaces:
            names = [name for uid in among for name in self._hidden(uid)]
            found = [image_id for name in names for image_id in self._by_id.get(name, ())]
            if not found and space is not None:
                found = self._of_space(space)
            self._spaces[key] = self._placed(found)
        return self._spaces[key]

    def _of_space(self, space: str) -> list[str]:
        names = {space}
        if self.pseudonyms is not None:
            names.add(self.pseudonyms.of("frame of reference", space))
        headers = self.images["header"].to_pylist()
        return [
            image_id
            for of_instance in self._by_id.values()
            for image_id in of_instance
            if dict(headers[self._rows[image_id]] or ()).get("frame_of_reference") in names
            and "~" not in image_id  # a copy of a file has the same position
        ]

    def _placed(self, image_ids: list[str]) -> Planes:
        """Return the images with known geometry: position and normal of each (n, 3)."""
        known = [(i, g) for i in image_ids if (g := self.geometry(i)) is not None]
        positions = [g.position_mm for _, g in known]
        normals = [np.cross(g.orientation[:3], g.orientation[3:]) for _, g in known]
        return [i for i, _ in known], np.array(positions), np.array(normals)

    def _in_plane(
        self,
        image_ids: list[str],
        positions: NDArray[np.float64],
        normals: NDArray[np.float64],
        points_mm: NDArray[np.float64],
    ) -> str:
        if not image_ids:
            raise NoMatch("no_image", 0)
        along = normals @ points_mm.T - np.sum(normals * positions, axis=1)[:, None]
        away = np.abs(along).max(axis=1)
        nearest = np.flatnonzero(away <= min(OFF_PLANE_MM, away.min() + SAME_PLACE_MM))
        if not len(nearest):
            raise NoMatch("other_plane", 0)
        if len(nearest) > 1:
            raise NoMatch("ambiguous", len(nearest))
        return image_ids[nearest[0]]

    def _hidden(self, uid: str) -> list[str]:
        """Return the possible catalog names of an instance, most likely first."""
        hidden = [] if self.pseudonyms is None else [self.pseudonyms.of("instance", uid)]
        return [*hidden, uid]

    def _names(self, target: Target) -> Iterator[list[str]]:
        """Yield the images that match each candidate name, most likely first."""
        if target.instance is not None:
            for name in self._hidden(target.instance):
                yield self._by_id.get(name, [])
        for path in target.paths:
            yield self._ends_with(path)
            if self.pseudonyms is None:
                continue
            # a pseudonym does not preserve prefixes, so try each suffix
            stem = path.removesuffix(".*")
            suffixes = known_suffixes()
            for name in [path] if stem == path else [stem + suffix for suffix in suffixes]:
                yield self._ends_with(self.pseudonyms.path(name, suffixes))

    def _ends_with(self, path: str) -> list[str]:
        stem = path.removesuffix("*")
        return [
            image_id
            for source, image_id in self._by_file.get(path.rsplit("/", 1)[-1], [])
            if f"/{source}".endswith(f"/{path}")
            or (stem != path and f"/{source.rpartition('.')[0]}.".endswith(f"/{stem}"))
        ]

    def place(self, image_id: str) -> tuple[str, int, int]:
        """Return the storage position of an image's pixels: neighbours are read together."""
        if image_id not in self._rows:
            return "", 0, 0
        row = self._row(image_id, ("stack", "t", "z"))
        return row["stack"] or "", row["t"] or 0, row["z"] or 0

    def geometry(self, image_id: str) -> PlaneGeometry | None:
        """Return an image's position in the patient, if the catalog has it."""
        names = ("position_mm", "orientation", "spacing_y_um", "spacing_x_um")
        if not set(names) <= set(self.images.column_names):
            return None
        row = self._row(image_id, names)
        if any(row[name] is None for name in names):
            return None
        spacing = row["spacing_y_um"] / 1000.0, row["spacing_x_um"] / 1000.0
        return PlaneGeometry(tuple(row["position_mm"]), tuple(row["orientation"]), spacing)

    def size(self, image_id: str) -> tuple[int, int]:
        """Return height and width of an image, pixels."""
        row = self._row(image_id, ("height", "width"))
        return row["height"], row["width"]

    def downsample(self, image_id: str) -> tuple[float, float] | None:
        """Return the downsampling factor (y, x) from an image's file to the image; None if unknown.

        Only whole slides read at another resolution have a factor other than 1.
        """
        row = self._row(image_id, ("header", "source"))
        header = dict(row["header"] or ())
        if DOWNSAMPLE in header:
            y, x = map(float, header[DOWNSAMPLE].split())
            return y, x
        slide = self.slides_resized and row["source"].lower().endswith(FORMATS["tiff"].suffixes)
        return None if slide else (1.0, 1.0)

    def _row(self, image_id: str, names: tuple[str, ...]) -> Mapping[str, Any]:
        n = self._rows[image_id]
        return {name: self.images[name][n].as_py() for name in names}
