"""What an operation says of the label images that it makes, beside its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.store.labels.images import LabelClass, LabelImage, LabelState, read_label_state
from engine.store.root.base import Root


class Labelled:
    """The part of an operation that makes label images; by default it makes none."""

    name: ClassVar[str]

    @property
    def key(self) -> str:
        """Digest of all that the answer depends on."""
        raise NotImplementedError

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """What the values of the operation's label images stand for; none: it makes none.

        `measure` of one that has some also answers ``labels``: uint8 (y, x), of the ``write``
        region where there is one. They are kept beside the pixels, and shown by viewers.
        """
        return ()

    @property
    def label_name(self) -> str:
        """Name of its label images below ``labels/`` of each stack."""
        return f"{self.name}@{self.key[:8]}"

    @property
    def class_image(self) -> LabelImage:
        """The label image of its classes."""
        return LabelImage(self.label_name, self.label_classes)

    @property
    def labels_objects(self) -> bool:
        """Whether there is a second label image, of its objects: uint32, by `label_objects`."""
        return False

    @property
    def object_image(self) -> LabelImage:
        """The label image of its objects, called as their table is."""
        return LabelImage(f"{self.name}_objects@{self.key[:8]}", dtype="uint32")

    def label_objects(
        self, labels: NDArray[np.uint8], numbers: Any | None = None
    ) -> NDArray[np.uint32]:
        """Return (y, x): the number of the object that each pixel is of, 0 where it is of none.

        Parameters
        ----------
        labels
            What `measure` answered: (y, x) of an image, or of one block of a giant one.
        numbers
            Of a block, what `number_blocks` says of it; None of a whole image.

        Raises
        ------
        ValueError
            If these are not the labels that the numbers were made of.
        """
        raise NotImplementedError(f"{self.name} does not label its objects")

    def number_blocks(self, blocks: Sequence[pa.Table]) -> Sequence[Any]:
        """Return, for each block of a giant image, the numbers of the objects in it.

        Parameters
        ----------
        blocks
            What each block of the image answered: the columns of ``objects``, in order of blocks.
        """
        raise NotImplementedError(f"{self.name} does not label its objects")


def read_labels_due(root: Root, operation: Labelled, images: pa.Table) -> LabelState | None:
    """Return which labels are there of those that come with rows; None where an operation has none.

    Objects of giant images are not among them: those are numbered when all blocks have rows.

    Parameters
    ----------
    images
        Rows of the catalog.
    """
    if not operation.label_classes:
        return None
    names = [operation.label_name]
    if not operation.labels_objects:
        return read_label_state(root, lambda _: names)
    both = [*names, operation.object_image.name]
    giants = set(images.filter(images["giant"])["stack"].to_pylist())
    return read_label_state(root, lambda stack: names if stack in giants else both)
