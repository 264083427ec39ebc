"""Images of a cohort that have a mask, and the samples that are made of them on a worker."""

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
from engine.learning.models.card import ClassCard, classes_named, tissue_classes
from engine.store.catalog.tables import SHARDS, ShardRow, shards_ledger, with_fields
from engine.store.digests import digest_of
from engine.store.pixels.stacks import StackReader
from engine.store.root.atomic_write import write_aside
from engine.store.root.base import Root

SAMPLES = ".samples"
"""Folder, in that of a training, with what its samples are read from."""


@dataclass(frozen=True, slots=True)
class MaskedImage:
    """Where an image is, and of whom; small and picklable.

    Attributes
    ----------
    image_id, name, subject
        What it is called, and whom it is of.
    content
        Digest of its pixels.
    stack, t, z, shape
        Its place in the store, and its size (c, y, x).
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    noise_sd
        Of each channel and, of colours, of their luminance, grey levels.
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
        """Whether its channels are grey or colours, and not stains."""
        return has_luminance(self.shape[0], len(self.noise_sd))

    def read(self, reader: StackReader) -> NDArray[Any]:
        """Return its pixels (c, y, x), checked against the catalog."""
        channels, height, width = (slice(0, side) for side in self.shape)
        planes = (self.t, channels) if self.z is None else (self.t, channels, self.z)
        return reader.read(self.stack, (*planes, height, width))


def masked_images(images: pa.Table, masks: Masks) -> list[MaskedImage]:
    """Return the images that have a mask, one for each content, by image_id.

    A copy of an image under another name teaches nothing new; and where it is another subject's,
    it would be both trained on and held out.

    Parameters
    ----------
    images
        The catalog's rows of those that may be taken.
    masks
        Which of them have one.
    """
    there = set(masks.image_ids)
    found: dict[str, MaskedImage] = {}
    rows = with_fields(images).to_pylist()
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
    """Return the classes that masks tell apart; those of marrow where masks don't say.

    A label between others that stands for nothing becomes a class that no pixel has.
    """
    if not masks.names:
        return tissue_classes()
    names = [masks.names.get(n, f"label_{n}") for n in range(1, max(masks.names) + 1)]
    return classes_named(["background", *map(card_name, names)])


def card_name(structure: str) -> str:
    """Return what a card calls a structure that people named as they like.

    Examples
    --------
    >>> card_name("Left Ventricle"), card_name("bone"), card_name("2nd fête")
    ('left_ventricle', 'bone', 'label_2nd_fete')
    """
    ascii_only = unicodedata.normalize("NFKD", structure).encode("ascii", "ignore").decode()
    plain = re.sub("[^a-z0-9]+", "_", ascii_only.lower()).strip("_")
    return (plain if plain[:1].isalpha() else f"label_{plain}")[:40]


def reader_of(root: Root, images: Sequence[MaskedImage]) -> StackReader:
    """Return what reads the pixels of some images."""
    ledger = shards_ledger(root)
    rows = ledger.read(ledger.snapshot().parts).select(SHARDS.names)
    stacks = {image.stack for image in images}
    kept = [ShardRow(**row) for row in rows.to_pylist() if row["stack"] in stacks]
    return StackReader(root, {row.path: row for row in kept})


def read_samples(
    root: Root,
    images: Sequence[MaskedImage],
    masks: Masks,
    folder: Path,
    told: Callable[[], None] = lambda: None,
) -> Iterator[Sample]:
    """Unpack images and masks into files that crops are read from, and yield them.

    A crop out of the store would decode a whole chunk. Files are named by what they are made of,
    so a training that goes on finds them there.

    Parameters
    ----------
    root
        Where the cohort lives.
    images, masks
        What is unpacked.
    folder
        Where to; it can be removed at any time that nobody reads it.
    told
        Called after each image.

    Raises
    ------
    ParameterError
        If an image has values that can't be learnt from.
    NoMask, CorruptStore, MissingObject, StoreFull, StoreReadOnly
    """
    reader = reader_of(root, images)
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
    """Return the pixels, unless they are floats beyond 0 and 1, which are black and white, or NaN.

    One of them would make all weights NaN, or be taken for white.
    """
    if pixels.dtype.kind == "f" and not ((pixels >= 0) & (pixels <= 1)).all():
        told = f"{image.image_id}, of floats from {pixels.min():g} to {pixels.max():g}"
        raise ParameterError("images", told, "of integers, or of floats between 0 and 1")
    return pixels


class StoredArray:
    """An array in a file, of which parts are read when they are asked for.

    Mapped for the time of a read only: pages that stay mapped count as the worker's memory, and
    Dask would end it for them.
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
    write_aside(path, kept.getvalue())
