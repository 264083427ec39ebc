"""Interface of masks of images: contours, mask files or label images.

A `MaskSource` is the user's choice: a small value that pickles. Opened for a cohort it becomes
`Masks`, which lists the images with a mask, gives the digest of each mask's inputs, and reads it. A
mask is (y, x) uint8, one class a pixel, with the size of its image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import EngineError, ParameterError
from engine.geometry import YX, Region
from engine.kernels.contours.geometry import edges_of_layers, paint_edges
from engine.store.backend.base import Store
from engine.store.catalog.annotations import AnnotationRef, read_annotations, read_contours
from engine.store.catalog.tables import ORPHANED, READY, orientations_of
from engine.store.digests import digest_of

Labels = NDArray[np.uint8]
Layers = tuple[NDArray[np.float64], ...]

RULE = 1
"""Version of the rule that rasterises outlines, see `engine.kernels.contours.geometry`."""

KEPT_IMAGES = 4_096
"""Images whose outlines a process caches: about 6 kB each."""


class NoMask(EngineError, LookupError):
    """An image has no usable mask: (image_id, problem)."""

    def __str__(self) -> str:
        image_id, problem = self.args
        return f"{image_id}: {problem}"


class Plane(NamedTuple):
    """Image plane that a mask must match: size, position, and orientation in viewers."""

    shape: YX
    source: str
    stack: str
    t: int
    z: int | None
    orientation: int = 1


class Masks(Protocol):
    """Masks of a cohort's images, ready for reading; picklable."""

    @property
    def names(self) -> Mapping[int, str]:
        """Names of the labels; 0 is the background."""

    @property
    def image_ids(self) -> Sequence[str]:
        """The images that have a mask, sorted."""

    def lacking(self, image_id: str) -> str:
        """Return the reason why an image has no mask: a code of `left_out.LACKING`."""

    def digest(self, image_id: str) -> str:
        """Return the digest of the inputs of an image's mask; may read the mask.

        Raises
        ------
        NoMask
        """

    def read(self, image_id: str, region: Region | None = None) -> Labels:
        """Read the mask of an image, or a part of it: (y, x) uint8.

        Raises
        ------
        NoMask
            If the image has no mask, or the mask does not match it.
        CorruptStore, MissingObject
        """

    def read_many(self, image_ids: Sequence[str]) -> Iterator[Labels]:
        """Read the masks of images of one shard, in order; faster than one by one."""


class MaskSource(Protocol):
    """Choice of masks, independent of a cohort."""

    def open(self, store: Store, images: pa.Table) -> Masks:
        """Find the masks of images.

        Parameters
        ----------
        store
            Store of the cohort.
        images
            The catalog's current rows, see `engine.store.catalog.tables.read_images`.

        Raises
        ------
        EngineError
            If no mask is found.
        """


def planes_of(images: pa.Table) -> dict[str, Plane]:
    """Return size and position of the images that have pixels, by image_id."""
    names = ("image_id", "state", "height", "width", "source", "stack", "t", "z")
    columns = [images[name].to_pylist() for name in names]
    columns.append(orientations_of(images))
    return {
        image_id: Plane((height, width), source, stack, t, z, turned)
        for image_id, state, height, width, source, stack, t, z, turned in zip(
            *columns, strict=True
        )
        if state in (READY, ORPHANED)
    }


def plane_of(planes: Mapping[str, Plane], image_id: str) -> Plane:
    """Return the size and position of an image, which must have pixels.

    Raises
    ------
    NoMask
    """
    if image_id not in planes:
        raise NoMask(image_id, "no image of this name has pixels here. See: cohort status")
    return planes[image_id]


def region_of(image_id: str, shape: YX, region: Region | None) -> Region:
    """Return the requested region, validated; the whole image by default.

    Raises
    ------
    ParameterError
        If the region is not inside the image.
    """
    if region is None:
        return Region((0, 0), shape)
    starts, stops = region.start, region.stop
    if any(not 0 <= a < b <= n for a, b, n in zip(starts, stops, shape, strict=True)):
        raise ParameterError("region", region, f"inside {image_id}, {shape[0]} x {shape[1]} px")
    return region


@dataclass(frozen=True)
class ContourMasks:
    """Masks of contours that people drew and `cohort ingest` imported.

    Parameters
    ----------
    labels
        Label of each structure. They are painted in this order, later ones over earlier ones, so
        ``{"outer": 2, "inner": 1}`` leaves 2 to the wall. An image has a mask if all of them are
        drawn on it: a wall with an unknown inside would be a wrong training target.
    annotation
        Name of the set in cohort.toml; by default any set, but only one may draw a structure.

    Examples
    --------
    >>> ContourMasks({"outer": 2, "inner": 1}).labels
    {'outer': 2, 'inner': 1}
    """

    labels: Mapping[str, int] = field(default_factory=lambda: {"inner": 1})
    annotation: str | None = None

    def __post_init__(self) -> None:
        """Validate the labels."""
        if not self.labels or not all(0 < label < 256 for label in self.labels.values()):
            raise ParameterError("labels", dict(self.labels), "a label from 1 to 255 a structure")

    def open(self, store: Store, images: pa.Table) -> Masks:
        """Find the images with drawings of all structures; see `MaskSource.open`.

        Raises
        ------
        NoMask
            If no image has them all, or two sets draw the same structure.
        """
        planes = planes_of(images)
        chosen: dict[str, tuple[AnnotationRef, ...]] = {}
        drawn: set[str] = set()
        annotations = read_annotations(store)
        lacking = {
            image_id: "refused"
            for image_id, structures in annotations.refused.items()
            if not structures.isdisjoint(self.labels)
        }
        for image_id, refs in annotations.refs.items():
            if image_id not in planes:
                continue
            found: dict[str, AnnotationRef] = {}
            for ref in refs:
                drawn.add(ref.structure)
                wanted = self.annotation in (None, ref.annotation) and ref.structure in self.labels
                if wanted and ref.structure in found:
                    sets = f"{found[ref.structure].annotation} and {ref.annotation}"
                    raise NoMask(
                        image_id, f"both {sets} draw {ref.structure!r}; say which annotation counts"
                    )
                if wanted:
                    found[ref.structure] = ref
            if len(found) == len(self.labels):
                chosen[image_id] = tuple(found[name] for name in self.labels)
            elif found:
                lacking.setdefault(image_id, "not_all_drawn")
        if not chosen:
            asked = " and ".join(map(repr, self.labels))
            there = ", ".join(sorted(drawn)) or "nothing"
            raise NoMask(
                store.url,
                f"no image has {asked} drawn on it, but {there}. Drawings are declared under "
                "[annotations] in cohort.toml, and read by cohort ingest",
            )
        return _DrawnMasks(store, dict(self.labels), planes, dict(sorted(chosen.items())), lacking)


class _DrawnMasks:
    """Masks of contours; points are read one part of the ledger at a time, and cached."""

    def __init__(
        self,
        store: Store,
        labels: Mapping[str, int],
        planes: Mapping[str, Plane],
        refs: Mapping[str, tuple[AnnotationRef, ...]],
        lacking: Mapping[str, str],
    ) -> None:
        self._store = store
        self._lacking = lacking
        self._labels = labels
        self._planes = planes
        self._refs = refs
        self._by_part: dict[str, list[str]] = {}
        for image_id, of_image in refs.items():
            for part in {ref.part for ref in of_image}:
                self._by_part.setdefault(part, []).append(image_id)
        self._kept: OrderedDict[str, tuple[Layers, ...]] = OrderedDict()

    @property
    def names(self) -> Mapping[int, str]:
        return {label: structure for structure, label in self._labels.items()}

    @property
    def image_ids(self) -> Sequence[str]:
        return tuple(self._refs)

    def lacking(self, image_id: str) -> str:
        return self._lacking.get(image_id, "no_mask")

    def digest(self, image_id: str) -> str:
        refs = self._of(image_id)
        drawn = [[self._labels[r.structure], r.annotation, r.structure, r.digest] for r in refs]
        return digest_of(["contours", RULE, drawn])

    def read(self, image_id: str, region: Region | None = None) -> Labels:
        drawn = self._edges(image_id)
        box = region_of(image_id, self._planes[image_id].shape, region)
        mask = np.zeros(box.shape, np.uint8)
        for label, layers in zip(self._labels.values(), drawn, strict=True):
            paint_edges(mask, layers, label, corner=box.start)
        return mask

    def read_many(self, image_ids: Sequence[str]) -> Iterator[Labels]:
        return map(self.read, image_ids)

    def _of(self, image_id: str) -> tuple[AnnotationRef, ...]:
        if image_id not in self._refs:
            plane_of(self._planes, image_id)
            asked = ", ".join(self._labels)
            raise NoMask(image_id, f"its mask needs drawings of {asked}, and not all of them exist")
        return self._refs[image_id]

    def _edges(self, image_id: str) -> tuple[Layers, ...]:
        if image_id not in self._kept:
            # Images that share a part are neighbours in the stacks, and are requested soon.
            near = self._by_part[self._of(image_id)[0].part]
            self._keep([image_id, *(i for i in near if i not in self._kept)][:KEPT_IMAGES])
        return self._kept[image_id]

    def _keep(self, image_ids: Iterable[str]) -> None:
        refs = {image_id: self._refs[image_id] for image_id in image_ids}
        for image_id, contours in read_contours(self._store, refs).items():
            self._kept[image_id] = tuple(edges_of_layers(contour.rings) for contour in contours)
        while len(self._kept) > KEPT_IMAGES:
            # The requested image is the first of those just read: evict older ones.
            self._kept.popitem(last=False)
