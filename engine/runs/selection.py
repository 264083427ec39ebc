"""Selection of images: a condition on catalog columns, and a limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from engine.conditions.compiling import require_columns, select_rows
from engine.conditions.parsing import parse_condition
from engine.conditions.tree import names_of
from engine.errors import ParameterError, UsageError
from engine.operations.base import Operation
from engine.operations.channels import require_names
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.catalog.derived import CHANNEL_NAMES, DERIVED
from engine.store.catalog.tables import IMAGES, ORPHANED, READY, expand_fields
from engine.store.config import read_config
from engine.store.subjects import join_subjects, mark_taken, read_subjects

ABOUT = ("source", "series", "instance", "channels", "height", "width", "dtype")
"""Catalog columns listed in errors, in addition to the layout's fields."""

VALUES = 5
"""Values per column that an error lists."""


@dataclass(frozen=True, slots=True)
class ImageCondition:
    """A condition on the images of a cohort, see docs/reference/conditions.md.

    Attributes
    ----------
    text
        Expression over catalog columns, the layout's fields and the columns of the subjects' CSV. A
        CSV column with the name of another column is called ``<name>_of_subject``.
    store
        The cohort, whose subjects' CSV is read only if the condition names other columns.
    """

    text: str
    store: Store | None = None

    def columns(self, images: pa.Table) -> pa.Table:
        """Return the catalog columns that the condition names.

        Raises
        ------
        ConditionError
            If the condition is invalid or names an unknown column.
        ConfigError
            If it needs the subjects' CSV, and that can't be read.
        """
        condition = parse_condition(self.text)
        names = list(dict.fromkeys(name.name for name in names_of(condition)))
        rows = expand_fields(images)
        if not {*names} <= {*rows.column_names}:
            rows = self._with_subjects(rows)
        layout = [name for name in rows.column_names if name not in {*IMAGES.names, *DERIVED.names}]
        require_columns(self.text, condition, rows.column_names, [*layout, *ABOUT])
        return rows.select(names)

    def _with_subjects(self, rows: pa.Table) -> pa.Table:
        if self.store is None:
            return rows
        subjects = read_subjects(self.store, read_config(self.store))[0]
        if subjects is None:
            return rows
        return join_subjects(rows, mark_taken(subjects, rows.column_names))

    def told_values(self, images: pa.Table) -> str:
        """Describe the values of the columns in the condition, so that the user can correct it.

        Values from the subjects' CSV are only counted: they are about patients.
        """
        rows, own = self.columns(images), {*expand_fields(images).column_names}
        told = []
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            values = sorted(pc.unique(column.drop_null()).to_pylist(), key=str)
            if name not in own:
                told.append(f"{name} (of the subjects) has {len(values):,} values")
                continue
            more = f" and {len(values) - VALUES:,} more" if len(values) > VALUES else ""
            told.append(f"{name} has {', '.join(map(repr, values[:VALUES])) or 'no value'}{more}")
        return f"Of all images {'; '.join(told)}."


def condition_of(store: Store, where: str | None) -> ImageCondition | None:
    """Return a condition on the images of a cohort, or None."""
    return None if where is None else ImageCondition(where, store)


def select_images(
    images: pa.Table,
    where: str | ImageCondition | None,
    limit: int | None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the catalog rows of the selected images; images without pixels are never selected.

    Parameters
    ----------
    images
        The catalog's current rows, by image_id.
    where
        A condition. A plain string can't use the subjects' CSV.
    limit
        Maximum number of images; the first ones are taken.
    columns
        Columns to return, by default all. Other columns are not copied: a cohort may have a million
        rows.

    Raises
    ------
    ConditionError
        If the condition is invalid or names an unknown column.
    ConfigError
        If it needs the subjects' CSV, and that can't be read.
    """
    kept = is_any(images["state"], [READY, ORPHANED])
    wanted = images if columns is None else images.select(list(columns))
    if where is not None:
        condition = ImageCondition(where) if isinstance(where, str) else where
        holds = select_rows(condition.columns(images), condition.text)
        kept = pc.and_(kept, pa.chunked_array([pa.array(holds)]))
    chosen = wanted.filter(kept)
    if limit is None:
        return chosen
    if limit < 1:
        raise ParameterError("--limit", limit, "at least 1")
    return chosen.slice(0, limit)


def with_sources(images: pa.Table) -> pa.Table:
    """Return the rows of images that still have a source.

    Examples
    --------
    >>> with_sources(pa.table({"state": ["ready", "orphaned"]})).to_pydict()
    {'state': ['ready']}
    """
    return images.filter(pc.invert(is_any(images["state"], [ORPHANED])))


def require_channels(operation: Operation, images: pa.Table, selected: Collection[str]) -> None:
    """Refuse an operation that names a channel that none of the selected images has.

    Raises
    ------
    NoSuchChannel
    """
    if operation.named_channels and selected:
        names = images.filter(is_any(images["image_id"], selected))[CHANNEL_NAMES].to_pylist()
        require_names(operation.named_channels, names)


def check_declare_allowed(where: str | None, limit: int | None, declare: bool) -> None:
    """Refuse to declare parameters for all images after a run on a selection.

    Raises
    ------
    UsageError
    """
    if declare and (where is not None or limit is not None):
        raise UsageError(
            "--declare applies to all images: remove it, or remove both --where and --limit."
        )
