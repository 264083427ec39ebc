"""Tables for people: results joined with the catalog, one slice of images at a time.

Each function is pure. A slice is a range of images in the order of image_id. Slices are cut the
same for any cluster, so tables are identical for any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.operations.base import Operation
from engine.operations.column_order import LAST_COLUMNS, x_before_y
from engine.operations.spacings import ALIKE
from engine.runs.input_digests import image_inputs
from engine.store.catalog.tables import FAILED, ORPHANED, RETIRED, field_column
from engine.store.path_pattern import FIELDS
from engine.store.pixels.layout import count_blocks
from engine.store.results import DONE
from engine.store.results import FAILED as RESULT_FAILED
from engine.store.subjects import join_subjects, mark_taken
from engine.tables.channels import expand_channels

if TYPE_CHECKING:
    import pandas as pd

GROUP = ("date", "subject", "experiment")
"""Layout fields that identify an experiment; ``<operation>_by_experiment`` groups by them."""

SLICE_IMAGES = 2_000
"""Images per slice: some 60,000 objects, a few megabytes."""

SUMMARIES = "summaries"
"""Kind of the rows from which an operation's further tables are built."""

MISSING, UNREADABLE = "missing", "unreadable"
"""Statuses of images without a result yet, and of sources without an image."""


@dataclass(frozen=True, slots=True)
class TableContext:
    """Settings that all tables of a cohort share.

    Attributes
    ----------
    fields
        Names of the layout's fields, those of `FIELDS` first.
    subjects
        The subjects' CSV, with a column ``subject``, or None.
    """

    fields: tuple[str, ...] = FIELDS
    subjects: pa.Table | None = None


def table_names(operation: Operation, suffix: str = "") -> dict[str, str]:
    """Return the file names, without suffix, of an operation's tables by kind.

    Kinds are ``objects``, ``images``, ``experiments``, and the operation's ``detail_tables`` and
    ``cohort_tables``.
    """
    name = operation.name
    return {
        "objects": f"{name}{suffix}",
        "images": f"{name}_by_image{suffix}",
        "experiments": f"{name}_by_experiment{suffix}",
        **{
            table: f"{table}{suffix}"
            for table in (*operation.detail_tables, *operation.cohort_tables)
        },
    }


def _reserved(operation: Operation) -> set[str]:
    """Return the column names that tables reserve in every cohort."""
    averaged = (*operation.averaged_columns, *operation.image_columns)
    derived = {f"{q}_{m}" for q in averaged for m in ("mean", "sd", "m2", "n")}
    counts = {"count", "images", "images_failed", "images_missing", "images_orphaned"}
    named = {"source", "orphaned", "image_id", "status", "reason", operation.object_name}
    return {*named, *counts, *derived, *operation.image_columns, *operation.object_schema.names}


def _subjects(operation: Operation, spec: TableContext) -> pa.Table | None:
    """Return the subjects' table, with colliding column names suffixed ``_of_subject``."""
    if spec.subjects is None:
        return None
    return mark_taken(spec.subjects, {*_reserved(operation), *spec.fields, "_image"})


def image_columns(operation: Operation, images: pa.Table, spec: TableContext) -> pa.Table:
    """Return the descriptive columns of images for every table, from the catalog's rows.

    A layout field with the name of one of the operation's columns becomes ``field_<name>``.
    """
    taken = _reserved(operation) - {*FIELDS}
    columns = {f"field_{n}" if n in taken else n: field_column(images, n) for n in spec.fields}
    columns["source"] = images["source"]
    columns["orphaned"] = pc.equal(images["state"], ORPHANED)
    columns["image_id"] = images["image_id"]
    table = pa.table(columns)
    subjects = _subjects(operation, spec)
    return table if subjects is None else join_subjects(table, subjects)


def build_slice(
    operation: Operation, images: pa.Table, results: pa.Table, spec: TableContext
) -> dict[str, pa.Table]:
    """Build a slice of each table.

    Parameters
    ----------
    operation
        Operation that made the results.
    images
        The catalog's current rows of the slice, by image_id.
    results
        Results of the key for at least these images; rows of other inputs are ignored.
    spec
        Settings that all tables share.

    Returns
    -------
    ``objects`` (one row per object), ``images`` (one per image and per unreadable source) and
    ``experiments`` (partial sums, for `merge_experiments`); also, if the operation has them,
    `SUMMARIES`, which it merges itself, and each of its ``detail_tables``.
    """
    images = images.filter(pc.not_equal(images["state"], RETIRED))
    described = image_columns(operation, images, spec)
    current = _current_results(operation, images, results)
    everything = _objects(operation, images, described, current)
    objects = everything.drop_columns(sorted(operation.hidden_columns))
    by_image = _by_image(operation, images, described, current, objects)
    summaries = operation.summarise_slice(objects, images) if operation.cohort_tables else None
    details = (
        operation.make_details(everything, described.column_names)
        if operation.detail_tables
        else {}
    )
    return {
        **({} if summaries is None else {SUMMARIES: summaries}),
        **details,
        "objects": objects.drop_columns(["_image"]),
        "images": by_image,
        "experiments": _experiment_sums(operation, by_image, objects),
    }


def _current_results(operation: Operation, images: pa.Table, results: pa.Table) -> pa.Table:
    """Return one row per current result: image number, status, reason, objects."""
    inputs = image_inputs(operation, images)
    numbers = {
        (image_id, of): n
        for n, (image_id, of) in enumerate(zip(images["image_id"].to_pylist(), inputs, strict=True))
    }
    pairs = zip(results["image_id"].to_pylist(), results["inputs"].to_pylist(), strict=True)
    number = np.array([numbers.get(pair, -1) for pair in pairs], np.int64)
    block = np.array([-1 if b is None else b for b in results["block"].to_pylist()], np.int64)
    order = np.lexsort((block, number))
    kept = order[number[order] >= 0]
    # A giant image with missing blocks counts as one without a result.
    due = _rows_due(images)
    there = np.bincount(number[kept], minlength=images.num_rows)
    kept = kept[there[number[kept]] == due[number[kept]]]
    rows = results.take(pa.array(kept))
    return rows.append_column("_image", pa.array(number[kept]))


def _rows_due(images: pa.Table) -> np.ndarray[Any, Any]:
    """Return the number of rows of each complete image: one, or one per block."""
    sides = zip(*(images[name].to_pylist() for name in ("giant", "height", "width")), strict=True)
    return np.array([count_blocks(y, x) if giant else 1 for giant, y, x in sides], np.int64)


def _objects(
    operation: Operation, images: pa.Table, described: pa.Table, current: pa.Table
) -> pa.Table:
    """Return one row per object, numbered from 1 in the order of the operation's columns."""
    failed = pc.equal(current["status"], RESULT_FAILED)  # one failed block fails a giant image
    bad = pc.is_in(current["_image"], value_set=current["_image"].filter(failed))
    current = current.filter(pc.invert(bad))
    lists = current["objects"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    structs = pc.list_flatten(lists)
    parents = pc.list_parent_indices(lists)
    numbers = current["_image"].take(parents).to_numpy()
    listed = pa.table(
        [structs.field(i) for i in range(structs.type.num_fields)], operation.object_schema
    )
    merged = operation.merge_objects(numbers, listed)
    numbers = merged["_image"].to_numpy()
    found = {name: merged[name].combine_chunks() for name in operation.object_schema.names}
    if "block" in current.column_names and set(operation.order_columns) <= set(found):
        # Sort a giant image's objects from top to bottom, instead of by block.
        keys = [found[name].to_numpy() for name in reversed(operation.order_columns)]
        order = np.lexsort((*keys, numbers))
        numbers = numbers[order]
        found = {name: column.take(pa.array(order)) for name, column in found.items()}
    found = {name: c for name, c in found.items() if name not in operation.unused_columns}
    if operation.channel_columns:
        found = expand_channels(operation, found, numbers, images)
    # Numbers ascend, so an object's rank within its image is its distance from the image's first.
    within = np.arange(1, len(numbers) + 1) - np.searchsorted(numbers, numbers)
    left = described.take(pa.array(numbers, pa.int64()))
    fields = [name for name in left.column_names if name not in LAST_COLUMNS]
    columns: dict[str, Any] = {name: left[name] for name in fields}
    columns[operation.object_name] = found.get(operation.object_name, pa.array(within, pa.int64()))
    columns.update({name: found[name] for name in x_before_y(list(found))})
    columns.update({name: left[name] for name in LAST_COLUMNS})
    columns["_image"] = pa.array(numbers, pa.int64())
    return pa.table(columns)


def _by_image(
    operation: Operation,
    images: pa.Table,
    described: pa.Table,
    current: pa.Table,
    objects: pa.Table,
) -> pa.Table:
    """Return one row per image: status, reason, count, mean and spread of the quantities."""
    total = images.num_rows
    status = np.full(total, MISSING, object)
    reason = np.full(total, None, object)
    unreadable = np.array([state == FAILED for state in images["state"].to_pylist()], bool)
    status[unreadable] = UNREADABLE
    reason[unreadable] = np.array(images["reason"].to_pylist(), object)[unreadable]
    rows = zip(*(current[n].to_pylist() for n in ("_image", "status", "reason")), strict=True)
    for number, found, why in rows:
        if status[number] != RESULT_FAILED:  # one failed block fails a giant image
            status[number], reason[number] = found, why
    complete = status == DONE
    number = objects["_image"].to_numpy()
    count = np.bincount(number, minlength=total)
    columns: dict[str, Any] = {
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
        "count": pa.array(count, pa.int64(), mask=~complete),
    }
    for name in operation.averaged_columns:
        there, mean, sd = _moments(number, objects[name].to_numpy().astype(float), total)
        columns[f"{name}_mean"] = pa.array(mean, mask=~complete | (there == 0))
        columns[f"{name}_sd"] = pa.array(sd, mask=~complete | (there < 2))
    listed = [name for name in operation.object_schema.names if name in objects.column_names]
    together = operation.summarise_images(number, objects.select(listed), total)
    for name in operation.image_columns:
        columns[name] = pa.array(together[name], mask=~complete | np.isnan(together[name]))
    last = ("source", "orphaned", "image_id")
    first = {n: described[n] for n in described.column_names if n not in last}
    return pa.table({**first, **columns, **{n: described[n] for n in last}})


def _moments(
    number: np.ndarray[Any, Any], values: np.ndarray[Any, Any], total: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return by group number the count of values (ignoring NaN), their mean, and sample SD."""
    known = ~np.isnan(values)
    number, values = number[known], values[known]
    count = np.bincount(number, minlength=total)
    mean = np.bincount(number, values, total) / np.maximum(count, 1)
    spread = np.bincount(number, (values - mean[number]) ** 2, total)
    return count, mean, np.sqrt(spread / np.maximum(count - 1, 1))


def _experiment_sums(operation: Operation, by_image: pa.Table, objects: pa.Table) -> pa.Table:
    """Return counts and moments by experiment, in the form that `merge_experiments` merges."""
    images = by_image.select([*GROUP, *operation.image_columns, "status", "orphaned"]).to_pandas()
    images["n_done"] = images["status"] == DONE
    images["n_failed"] = images["status"].isin([RESULT_FAILED, UNREADABLE])
    # Means exclude orphaned images; their rows and count stay.
    together = list(operation.image_columns)
    images[together] = images[together].where(~images["orphaned"])
    groups = images.groupby(list(GROUP), sort=True, dropna=False)
    partial = groups.agg(
        images=("status", "size"),
        images_failed=("n_failed", "sum"),
        images_missing=("status", lambda s: int((s == MISSING).sum())),
        images_orphaned=("orphaned", "sum"),
    )
    here = objects.filter(pc.invert(objects["orphaned"]))
    found = here.select([*GROUP, *operation.averaged_columns]).to_pandas()
    by_group = found.groupby(list(GROUP), sort=True, dropna=False)
    partial["count"] = by_group.size()
    if operation.pixel_sizes:
        spacing = here["spacing_um"].to_pandas().astype(float)
        by_spacing = found.assign(known=spacing.notna(), low=spacing, high=spacing).groupby(
            list(GROUP), sort=True, dropna=False
        )
        partial["_spacing_low"] = by_spacing["low"].min()
        partial["_spacing_high"] = by_spacing["high"].max()
        partial["_spacing_known"] = by_spacing["known"].sum()
    averaged = [
        *((n, by_group) for n in operation.averaged_columns),
        *((n, groups) for n in operation.image_columns),
    ]
    for name, grouped in averaged:  # pandas ignores NaN
        partial[f"{name}_n"] = grouped[name].count()
        partial[f"{name}_mean"] = grouped[name].mean()
        partial[f"{name}_m2"] = grouped[name].var(ddof=0) * grouped[name].count()
    counted = ["images_missing", "images_orphaned", "count", *(f"{n}_n" for n, _ in averaged)]
    counted += ["_spacing_known"] if operation.pixel_sizes else []
    summed = [*counted, *(f"{n}_{m}" for n, _ in averaged for m in ("mean", "m2"))]
    partial[summed] = partial[summed].fillna(0)
    whole = partial.reset_index().astype(dict.fromkeys(counted, "int64"))
    return pa.Table.from_pandas(whole, preserve_index=False)


def merge_experiments(operation: Operation, partials: Sequence[pa.Table]) -> pa.Table:
    """Merge partial sums of experiments; associative up to rounding (Chan et al. 1979).

    Parameters
    ----------
    partials
        Partial sums in the order of their slices.
    """
    return reduce(lambda left, right: _merge_two(operation, left, right), partials)


def _merge_two(operation: Operation, left: pa.Table, right: pa.Table) -> pa.Table:
    a = left.to_pandas().set_index(list(GROUP))
    b = right.to_pandas().set_index(list(GROUP))
    both = a.index.union(b.index, sort=True)
    merged = a.reindex(both).combine_first(b.reindex(both))[list(a.columns)]
    averaged = (*operation.averaged_columns, *operation.image_columns)
    counts = ["images", "images_failed", "images_missing", "images_orphaned", "count"]
    if operation.pixel_sizes:
        counts.append("_spacing_known")
        for name, merge in (("_spacing_low", np.fmin), ("_spacing_high", np.fmax)):
            merged[name] = merge(a[name].reindex(both), b[name].reindex(both))
    for name in (*counts, *(f"{n}_n" for n in averaged)):
        total = a[name].reindex(both).fillna(0) + b[name].reindex(both).fillna(0)
        merged[name] = total.astype("int64")
    for name in averaged:
        a_counts, b_counts = (f[f"{name}_n"].reindex(both).fillna(0) for f in (a, b))
        whole = np.maximum(a_counts + b_counts, 1)
        mean_a, mean_b = (f[f"{name}_mean"].reindex(both).fillna(0) for f in (a, b))
        m2_a, m2_b = (f[f"{name}_m2"].reindex(both).fillna(0) for f in (a, b))
        gap = mean_b - mean_a
        merged[f"{name}_mean"] = mean_a + gap * b_counts / whole
        merged[f"{name}_m2"] = m2_a + m2_b + gap**2 * a_counts * b_counts / whole
    return pa.Table.from_pandas(merged.reset_index(), preserve_index=False)


def finish_experiments(operation: Operation, merged: pa.Table, spec: TableContext) -> pa.Table:
    """Turn merged sums into the final table, joined with the subjects."""
    frame: pd.DataFrame = merged.to_pandas()
    if operation.pixel_sizes:
        known = frame.pop("_spacing_known")
        wide = frame.pop("_spacing_high") > frame.pop("_spacing_low") * (1 + ALIKE)
        mixed = wide | ((known > 0) & (known < frame["count"]))
    for name in (*operation.averaged_columns, *operation.image_columns):
        count = frame.pop(f"{name}_n")
        spread = np.sqrt(frame.pop(f"{name}_m2") / np.maximum(count - 1, 1))
        if name in operation.pixel_sizes:  # sizes in different pixels have no common mean
            count = count.where(~mixed, 0)
        frame[f"{name}_mean"] = frame[f"{name}_mean"].where(count > 0)
        frame.insert(
            list(frame.columns).index(f"{name}_mean") + 1, f"{name}_sd", spread.where(count > 1)
        )
    table = pa.Table.from_pandas(frame, preserve_index=False)
    subjects = _subjects(operation, spec)
    if subjects is None:
        return table
    first = table.column_names.index("count")  # subject columns come before measurement columns
    joined = join_subjects(table, subjects)
    added = joined.column_names[table.num_columns :]
    return joined.select([*table.column_names[:first], *added, *table.column_names[first:]])
