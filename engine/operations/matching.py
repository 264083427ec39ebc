"""Which catalogued image a drawing is of. Pure: names in, image_ids out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from engine.operations.listing import SUFFIXES
from engine.privacy import Pseudonyms
from engine.sources.annotations import PlaneGeometry, Target
from engine.store.catalog import ORPHANED, READY

MATCHING_REASONS = {
    "no_image": "No image of the catalog is what the drawing names.",
    "ambiguous": "More than one image of the catalog could be meant.",
}
"""Why a drawing is of no image."""


class NoMatch(ValueError):
    """No image, or more than one, is meant: (code, how many)."""


@dataclass
class ImageIndex:
    """The images of a catalog, by what a drawing may call them.

    Parameters
    ----------
    images
        The catalog's current rows.
    root
        Name of the root that the images must be of, or None.
    pseudonyms
        Those of the catalog's confidential roots; plain names are looked up as well.
    """

    images: pa.Table
    root: str | None = None
    pseudonyms: Pseudonyms | None = None
    _by_file: dict[str, list[tuple[str, str]]] = field(default_factory=dict, repr=False)
    _by_id: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _rows: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Look at every image once."""
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

    def image_of(self, target: Target) -> str:
        """Return the image_id of the image that is meant.

        Raises
        ------
        NoMatch
            ``no_image`` or ``ambiguous``.
        """
        found: list[str] = []
        for name in self._names(target):
            found = list(name)
            if found:
                break
        if target.frame is not None and len(found) > 1:
            found = [i for i in found if i.endswith(f"#{target.frame - 1}")]
        if not found:
            raise NoMatch("no_image", 0)
        if len(found) > 1:
            raise NoMatch("ambiguous", len(found))
        return found[0]

    def _names(self, target: Target) -> Iterator[list[str]]:
        """Yield the images of each name that is tried, most likely first."""
        if target.instance is not None:
            names = [target.instance]
            if self.pseudonyms is not None:
                names.insert(0, self.pseudonyms.of("instance", target.instance))
            for name in names:
                yield self._by_id.get(name, [])
        for path in target.paths:
            yield self._ends_with(path)
            if self.pseudonyms is not None and not path.endswith(".*"):
                yield self._ends_with(self.pseudonyms.path(path, SUFFIXES))

    def _ends_with(self, path: str) -> list[str]:
        stem = path.removesuffix("*")
        return [
            image_id
            for source, image_id in self._by_file.get(path.rsplit("/", 1)[-1], [])
            if f"/{source}".endswith(f"/{path}")
            or (stem != path and f"/{source.rpartition('.')[0]}.".endswith(f"/{stem}"))
        ]

    def place(self, image_id: str) -> tuple[str, int, int]:
        """Return where an image's pixels lie: what lies together is read together."""
        if image_id not in self._rows:
            return "", 0, 0
        row = self._row(image_id, ("stack", "t", "z"))
        return row["stack"] or "", row["t"] or 0, row["z"] or 0

    def geometry(self, image_id: str) -> PlaneGeometry | None:
        """Return where an image lies in the patient, as far as the catalog knows."""
        names = ("position_mm", "orientation", "spacing_y_um", "spacing_x_um")
        if not set(names) <= set(self.images.column_names):
            return None
        row = self._row(image_id, names)
        if any(row[name] is None for name in names):
            return None
        spacing = row["spacing_y_um"] / 1000.0, row["spacing_x_um"] / 1000.0
        return PlaneGeometry(tuple(row["position_mm"]), tuple(row["orientation"]), spacing)

    def _row(self, image_id: str, names: tuple[str, ...]) -> Mapping[str, Any]:
        n = self._rows[image_id]
        return {name: self.images[name][n].as_py() for name in names}
