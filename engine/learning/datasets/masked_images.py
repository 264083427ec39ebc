"""Masked images of a cohort, and the samples that workers unpack from them."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.colour import has_luminance
from engine.learning.datasets.masks import Masks
from engine.learning.datasets.samples import Sample
from engine.learning.models.card import ClassCard, make_classes, tissue_classes
from engine.store.backend.atomic_write import atomic_write
from engine.store.backend.base import Store
from engine.store.catalog.tables import expand_fields, read_shards
from engine.store.digests import digest_of
from engine.store.pixels.stacks import StackReader

SAMPLES = ".samples"
"""Subfolder of a training that holds its unpacked samples."""


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """Location and subject of an image; small and picklable.

    Attributes
    ----------
    image_id, name, subject
        Identifiers of the image and its subject.
    content
        Digest of its pixels.
    stack, t, z, shape
        Position in the store, and size (c, y, x).
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    noise_sd
        Of each channel and, for colours, of their luminance, grey levels.
    """

    image_id: str
    name: str
    subject: str
    content: str
    stack: str
    t: int
    z: int | None
    shape: tuple[int, int, int]
    spacing_um: tuple[float, float] | None
    noise_sd: tuple[float, ...]

    @property
    def colours(self) -> bool:
        """True if its channels are grey or colours instead of stains."""
        return has_luminance(self.shape[0], len(self.noise_sd))

    def read(self, reader: StackReader) -> NDArray[Any]:
        """Return its pixels (c, y, x), verified against the catalog."""
        channels, height, width = (slice(0, side) for side in self.shape)
        planes = (self.t, channels) if self.z is None else (self.t, channels, self.z)
        return reader.read(self.stack, (*planes, height, width))


def images_with_masks(images: pa.Table, masks: Masks) -> list[MaskedImage]:
    """Return the images that have a mask, one for each content, by image_id.

    A copy of an image under another name adds no information; and if it belongs to another subject,
    the same pixels could be both trained on and held out.

    Parameters
    ----------
    images
        The catalog's rows of the candidates.
    masks
        Source of their masks.
    """
    there = set(masks.image_ids)
    found: dict[str, MaskedImage] = {}
    rows = expand_fields(images).to_pylist()
    for row in sorted(rows, key=lambda row: row["image_id"]):
        if row["image_id"] not in there or row["content"] in found:
            continue
        spacing = row["spacing_y_um"], row["spacing_x_um"]
        found[row["content"]] = MaskedImage(
            row["image_id"],
            row.get("name") or row["source"],
            row.get("subject") or "",
            row["content"],
            row["stack"],
            row["t"],
            row["z"],
            (row["channels"], row["height"], row["width"]),
            None if None in spacing else spacing,
            tuple(row["noise_sd"] or ()),
        )
    return list(found.values())


def classes_of_masks(masks: Masks) -> tuple[ClassCard, ...]:
    """Return the classes of masks; by default those of marrow.

    An unused label between others becomes a class without pixels.
    """
    if not masks.names:
        return tissue_classes()
    names = [masks.names.get(n, f"label_{n}") for n in range(1, max(masks.names) + 1)]
    return make_classes(["background", *map(card_name, names)])


def card_name(structure: str) -> str:
    """Return a valid class name for a card from any name of a structure.

    Examples
    --------
    >>> card_name("Left Ventricle"), card_name("bone"), card_name("2nd fête")
    ('left_ventricle', 'bone', 'label_2nd_fete')
    """
    ascii_only = unicodedata.normalize("NFKD", structure).encode("ascii", "ignore").decode()
    plain = re.sub("[^a-z0-9]+", "_", ascii_only.lower()).strip("_")
    return (plain if plain[:1].isalpha() else f"label_{plain}")[:40]


def reader_of(store: Store, images: Sequence[MaskedImage]) -> StackReader:
    """Return a reader of the pixels of some images."""
    kept = read_shards(store, {image.stack for image in images})
    return StackReader(store, {row.path: row for row in kept})


def read_samples(
    store: Store,
    images: Sequence[MaskedImage],
    masks: Masks,
    folder: Path,
    told: Callable[[], None] = lambda: None,
) -> Iterator[Sample]:
    """Unpack images and masks into files from which crops are read, and yield the samples.

    A crop from the store would decode a whole chunk. Files are named by their inputs, so a resumed
    training finds them.

    Parameters
    ----------
    store
        Store of the cohort.
    images, masks
        Images to unpack, and their masks.
    folder
        Target folder; it can be removed whenever it is not in use.
    told
        Called after each image.

    Raises
    ------
    ParameterError
        If an image has values that can't be trained on.
    NoMask, CorruptStore, MissingObject, StoreFull, StoreReadOnly
    """
    reader = reader_of(store, images)
    for image in images:
        digest = digest_of([image.content, masks.digest(image.image_id)])
        pixels, labels = (folder / f"{digest}-{what}.npy" for what in ("pixels", "labels"))
        if not labels.exists():
            _write(pixels, _learnable(image, image.read(reader)))
            _write(labels, masks.read(image.image_id))
        yield Sample(
            image.name,
            image.subject,
            StoredArray(pixels),
            StoredArray(labels),
            digest,
            image.spacing_um,
            image.content,
            image.colours,
        )
        told()


def _learnable(image: MaskedImage, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels, or refuse floats outside 0 to 1 (black to white) and NaN.

    One NaN would turn all weights into NaN; a value above 1 would count as white.
    """
    if pixels.dtype.kind == "f" and not ((pixels >= 0) & (pixels <= 1)).all():
        told = f"{image.image_id}, of floats from {pixels.min():g} to {pixels.max():g}"
        raise ParameterError("images", told, "of integers, or of floats between 0 and 1")
    return pixels


class StoredArray:
    """Array in a file, read in parts on request.

    Mapped only during a read: pages that stay mapped count as the worker's memory, and Dask would
    terminate the worker.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        array = np.load(path, mmap_mode="r")
        self.shape: tuple[int, ...] = array.shape
        self.ndim, self.size = array.ndim, array.size
        self.dtype: np.dtype[Any] = array.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a part."""
        return np.array(np.load(self._path, mmap_mode="r")[index])


def _write(path: Path, array: NDArray[Any]) -> None:
    kept = io.BytesIO()
    np.save(kept, array)
    atomic_write(path, kept.getvalue())
