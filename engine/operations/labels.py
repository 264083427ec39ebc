"""Declaration of the label images that an operation makes in addition to its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.deprecations import RenamedMember
from engine.store.backend.base import Store
from engine.store.labels.images import LabelClass, LabelImage, LabelState, read_label_state


class LabelSpec:
    """Mixin of operations that make label images; by default an operation makes none."""

    name: ClassVar[str]

    @property
    def key(self) -> str:
        """Digest of all inputs of the result."""
        raise NotImplementedError

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """Meaning of the values of the operation's label images; empty if it makes none.

        `measure` of an operation with label classes also returns ``labels``: uint8 (y, x), of the
        ``core_region`` if there is one. They are stored beside the pixels, and shown by viewers.
        """
        return ()

    @property
    def label_name(self) -> str:
        """Name of the label images below ``labels/`` of each stack."""
        return f"{self.name}@{self.key[:8]}"

    @property
    def has_instances(self) -> bool:
        """True if `measure` returns numbered objects (uint32) in place of classes."""
        return False

    @property
    def has_labels(self) -> bool:
        """True if there are label images, of classes or of objects."""
        return bool(self.label_classes) or self.has_instances

    @property
    def measured_image(self) -> LabelImage:
        """Label image of that which `measure` returns: of the classes."""
        return LabelImage(self.label_name, self.label_classes)

    def label_images(self, giant: bool) -> tuple[LabelImage, ...]:
        """Return the label images that belong to the rows of an image.

        For a giant image, without the objects: their numbers are known once all blocks have rows.
        """
        measured = () if self.has_instances and not giant else (self.measured_image,)
        objects = (self.object_image,) if self.has_object_labels and not giant else ()
        return (*measured, *objects)

    class_image: ClassVar[Any] = RenamedMember("measured_image")
    labels_objects: ClassVar[Any] = RenamedMember("has_object_labels")

    @property
    def has_object_labels(self) -> bool:
        """True if there is a label image of objects: uint32, by `label_objects`."""
        return False

    @property
    def object_image(self) -> LabelImage:
        """Label image of the objects, named like their table."""
        return LabelImage(f"{self.name}_objects@{self.key[:8]}", dtype="uint32")

    def label_objects(self, labels: NDArray[Any], numbers: Any | None = None) -> NDArray[np.uint32]:
        """Return (y, x): the number of each pixel's object, 0 for background.

        Parameters
        ----------
        labels
            The labels that `measure` returned: (y, x) of an image, or of one block of a giant
            image.
        numbers
            For a block, its entry from `number_blocks`; None for a whole image.

        Raises
        ------
        ValueError
            If the labels differ from those that the numbers were computed from.
        """
        raise NotImplementedError(f"{self.name} does not label its objects")

    def number_blocks(self, blocks: Sequence[pa.Table]) -> Sequence[Any]:
        """Return, for each block of a giant image, the numbers of its objects.

        Parameters
        ----------
        blocks
            Results of each block of the image: the columns of ``object_schema``, by block.
        """
        raise NotImplementedError(f"{self.name} does not label its objects")


def read_labels_due(store: Store, operation: LabelSpec, images: pa.Table) -> LabelState | None:
    """Return the state of the label images that belong to rows; None for an operation without any.

    Excludes the object labels of giant images: those are written once all blocks have rows.

    Parameters
    ----------
    images
        Rows of the catalog.
    """
    if not operation.has_labels:
        return None
    of_giants, of_others = (
        [image.name for image in operation.label_images(giant)] for giant in (True, False)
    )
    giants = set(images.filter(images["giant"])["stack"].to_pylist())
    return read_label_state(store, lambda stack: of_giants if stack in giants else of_others)
