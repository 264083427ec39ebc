"""Base class of operations whose answer is instances: a label image with a number for each object.

An object belongs to the block of a giant image that holds its first pixel, row by row. Each block
stores all objects of its region with numbers of its own; once all blocks have results, the objects
of the whole image are numbered by their first pixels. So the answer does not depend on the blocks,
for objects that every block around them sees whole.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.segmentation.instances import Instances, find_instances
from engine.operations.base import LABELS, Found, Image, ImageFailed, Operation
from engine.store.labels.images import BLOCKS, LabelImage

MEASURED = pa.schema(
    [
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("area_px", pa.int64()),
        ("area_um2", pa.float64()),
        ("equivalent_diameter_px", pa.float64()),
        ("equivalent_diameter_um", pa.float64()),
        ("spacing_um", pa.float64()),
        ("touches_border", pa.bool_()),
        ("cut", pa.bool_()),
        *((name, pa.int64()) for name in ("first", "top", "left", "bottom", "right")),
        ("owned", pa.bool_()),
    ]
)
"""Columns of every instance; `InstanceOperation.own_schema` adds others before the last six."""

HIDDEN = frozenset({"first", "top", "left", "bottom", "right", "owned"})
"""Columns that join blocks, and those of the bounding box in the whole image, half-open."""

SHOWN = tuple(name for name in MEASURED.names if name not in HIDDEN)


def instance_schema(own: pa.Schema) -> pa.Schema:
    """Return the columns of an instance: those of `MEASURED`, and an operation's own ones.

    Raises
    ------
    ParameterError
        If two have the same name.
    """
    for name in own.names:
        if name in MEASURED.names:
            raise ParameterError("schema", name, "another name: every instance has this column")
    shown = [MEASURED.field(name) for name in SHOWN]
    hidden = [field for field in MEASURED if field.name in HIDDEN]
    return pa.schema([*shown, *own, *hidden])


class InstanceOperation(Operation):
    """Operation that finds objects as instances; subclasses implement `find`.

    The table has a row for each object, numbered as in the label image: by its first pixel, row by
    row. ``cut`` marks objects of giant images that a block did not see whole, because they are
    larger than the halo.
    """

    object_schema: ClassVar[pa.Schema] = instance_schema(pa.schema([]))
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")
    averaged_columns: ClassVar[tuple[str, ...]] = ("area_px", "area_um2", "equivalent_diameter_px",
                                                   "equivalent_diameter_um")  # fmt: skip
    pixel_sizes: ClassVar[tuple[str, ...]] = ("area_px", "equivalent_diameter_px")
    qc_columns: ClassVar[tuple[str, ...]] = ()
    column_labels: ClassVar[Mapping[str, str]] = {
        "area_px": "area, px",
        "area_um2": "area, um²",
        "equivalent_diameter_px": "diameter, px",
        "equivalent_diameter_um": "diameter, um",
    }
    hidden_columns: ClassVar[frozenset[str]] = HIDDEN
    order_columns: ClassVar[tuple[str, ...]] = ("first",)

    @abstractmethod
    def find(self, image: Image) -> tuple[NDArray[Any], Mapping[str, Sequence[Any] | NDArray[Any]]]:
        """Return the objects of an image, and the operation's own columns of each.

        Returns
        -------
        labels
            (y, x) of any integer type, of the size of ``image.pixels``; 0 is background, and each
            object has a positive number.
        columns
            For each field of ``object_schema`` that is not in `MEASURED` a value for each object,
            by ascending number.
        """

    @property
    def has_instances(self) -> bool:
        """True: `measure` returns numbered objects."""
        return True

    @property
    def has_object_labels(self) -> bool:
        """True: the label image has the numbers of the table."""
        return True

    @property
    def object_image(self) -> LabelImage:
        """Label image of the objects."""
        return LabelImage(self.label_name, dtype="uint32")

    @property
    def measured_image(self) -> LabelImage:
        """Label image of blocks, each with numbers of its own."""
        return LabelImage(f"{self.name}{BLOCKS}{self.key[:8]}", dtype="uint32")

    def measure(self, image: Image) -> Found:
        """Return the objects with pixels in the core region; see `Operation.measure`."""
        labels, own = self.find(image)
        found = _checked(labels, image)
        count = len(found.area_px)
        side = np.nan if image.spacing_um is None else float(np.sqrt(np.prod(image.spacing_um)))
        diameter = np.sqrt(4.0 * found.area_px / np.pi)
        whole = image.full_shape or image.pixels.shape[1:]
        columns: dict[str, Any] = {
            "area_um2": _known(found.area_px * side**2),
            "equivalent_diameter_px": diameter,
            "equivalent_diameter_um": _known(diameter * side),
            "spacing_um": _known(np.full(count, side)),
            "touches_border": (
                (found.top == 0)
                | (found.left == 0)
                | (found.bottom == whole[0])
                | (found.right == whole[1])
            ),
        }
        for name in MEASURED.names:
            columns.setdefault(name, getattr(found, name, None))
        return {**columns, **_own_columns(own, self._own_names(), found), LABELS: found.numbers}

    def _own_names(self) -> list[str]:
        return [name for name in self.object_schema.names if name not in MEASURED.names]

    def merge_objects(self, image: NDArray[np.int64], found: pa.Table) -> pa.Table:
        """Keep each object once, as the block of its first pixel saw it; see `Operation`.

        An object that no block sees whole may have parts under several names: a part whose first
        pixel belongs to a block that does not see it so stays an object of its own. All are `cut`.
        """
        first, owned, cut = (found[name].to_numpy() for name in ("first", "owned", "cut"))
        order = np.lexsort((~owned, first, image))  # the block of the first pixel comes first
        begins = np.ones(len(order), bool)
        begins[1:] = (np.diff(first[order]) != 0) | (np.diff(image[order]) != 0)
        kept = order[begins]
        if len(order):
            cut = np.logical_or.reduceat(cut[order], np.flatnonzero(begins)) | ~owned[kept]
        rows = found.take(pa.array(kept))
        at = rows.schema.get_field_index("cut")
        rows = rows.set_column(at, rows.schema.field(at), pa.array(cut, pa.bool_()))
        return rows.append_column("_image", pa.array(image[kept], pa.int64()))

    def number_blocks(self, blocks: Sequence[pa.Table]) -> Sequence[NDArray[np.uint32]]:
        """Return, for each block, the number of each of its objects in the whole image."""
        firsts = [block["first"].to_numpy() for block in blocks]
        names = np.unique(np.concatenate(firsts)) if firsts else np.empty(0, np.int64)
        return [
            np.concatenate([[0], np.searchsorted(names, first) + 1]).astype(np.uint32)
            for first in firsts
        ]

    def label_objects(
        self, labels: NDArray[Any], numbers: NDArray[np.uint32] | None = None
    ) -> NDArray[np.uint32]:
        """Return each pixel's object number; see `LabelSpec.label_objects`."""
        if numbers is None:
            return labels.astype(np.uint32, copy=False)
        if int(labels.max(initial=0)) >= len(numbers):
            raise ValueError("the labels have more objects than the results")
        return numbers[labels]


def _checked(labels: Any, image: Image) -> Instances:
    """Return the objects of a label image.

    Raises
    ------
    ImageFailed
        If the labels are not whole numbers, not of the image's size, or negative.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind == "b":
        raise ImageFailed("labels_are_a_mask")
    if labels.dtype.kind not in "iu":
        raise ImageFailed(f"labels_of_type_{labels.dtype}")
    if labels.shape != image.pixels.shape[1:]:
        raise ImageFailed("labels_of_another_shape")
    try:
        return find_instances(labels, image.origin, image.core_region, image.full_shape)
    except ValueError:
        raise ImageFailed("negative_labels") from None


def _own_columns(
    own: Mapping[str, Any], names: Sequence[str], found: Instances
) -> dict[str, NDArray[Any]]:
    """Return the operation's own columns of the objects of the core region."""
    columns = {}
    for name in names:
        if name not in own:
            raise ImageFailed(f"no_column_{name}")
        values = np.asarray(own[name])
        if values.shape != (found.total,):
            raise ImageFailed("columns_of_different_length")
        columns[name] = values[found.rank]
    return columns


def _known(values: NDArray[np.floating[Any]]) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
