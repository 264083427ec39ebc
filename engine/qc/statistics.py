"""Statistics of an operation's results for quality control, from columns of its tables.

Memory holds at most one slice of the table of objects, and a few columns of the table of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.conditions.compiling import require_columns, select_rows
from engine.conditions.parsing import parse_condition
from engine.conditions.tree import names_of
from engine.operations.base import Operation
from engine.operations.spacings import group_spacings, known_spacing, spacing_text
from engine.store.backend.base import Store
from engine.store.results import DONE, FAILED
from engine.store.tables import open_table
from engine.tables.build import GROUP, table_names

BINS = 24
"""Approximate number of bins of a histogram: widths are 1, 2 or 5 times a power of ten."""

COUNT = "count"
"""The measure that every operation has: the number of objects in an image."""

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Distribution of a measure by subject, and by spacing if there are several.

    Attributes
    ----------
    measure
        Name of the column.
    edges
        Edges of the bins, one more than bins.
    counts
        (groups of `QcStatistics`, bins).
    means
        Mean of each group; not finite if it has no values.
    """

    measure: str
    edges: Floats
    counts: Whole
    means: Floats


@dataclass(frozen=True)
class QcStatistics:
    """The results of an operation, one entry per image, in the order of the tables.

    Attributes
    ----------
    columns
        image_id, source, the layout's fields, status and reason, as Arrow lists.
    status
        Status as in the table.
    subject, experiment
        Number of each image's subject and experiment; ``subjects`` and ``experiments`` are their
        names, the latter (date, subject, experiment).
    measures
        By name: for each image the count of its objects, or the mean of a column over them; not
        finite without objects.
    objects
        Total number of objects.
    histograms
        One per measure: of images for the count, of objects for the others.
    groups, group
        Names of the groups within which images are compared, and each image's group: a subject, or
        a subject's images of one pixel spacing if the cohort has several.
    """

    columns: pa.Table
    status: NDArray[np.object_]
    subjects: tuple[str, ...]
    subject: Whole
    experiments: tuple[tuple[str, str, str], ...]
    experiment: Whole
    measures: Mapping[str, Floats]
    objects: int
    histograms: tuple[Histogram, ...] = field(default=())
    groups: tuple[str, ...] = ()
    group: Whole = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        """Compare within subjects by default."""
        if not self.groups:
            object.__setattr__(self, "groups", self.subjects)
            object.__setattr__(self, "group", self.subject)

    @property
    def mixed(self) -> bool:
        """True if the cohort has several spacings, and images are compared within one."""
        return self.groups != self.subjects

    def __len__(self) -> int:
        return len(self.status)

    @property
    def computed(self) -> NDArray[np.bool_]:
        """Mask of images with a result, done or failed."""
        return np.isin(self.status, [DONE, FAILED])


def nice_edges(low: float, high: float) -> Floats:
    """Return about `BINS` edges at round numbers that span a range.

    Examples
    --------
    >>> nice_edges(0.2, 3.9)[[0, 1, -1]].round(1).tolist()
    [0.2, 0.4, 4.0]
    """
    if not np.isfinite(high - low):
        return np.array([0.0, 1.0])
    if high - low <= max(1e-6 * max(abs(low), abs(high)), 1e-9):  # all values equal
        side = max(0.05 * abs(low), 1e-3)
        low, high = low - side, high + side
    rough = (high - low) / BINS
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(n for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
    first = np.floor(low / step + 1e-9)
    # A value on the last edge belongs to the last bin, so a share of 1 needs no bin above it.
    bins = max(1, int(np.ceil(high / step - 1e-9) - first))
    return round_to(step, (first + np.arange(bins + 1)) * step)


def round_to(step: float, values: Floats) -> Floats:
    """Remove floating-point noise from multiples of a step, e.g. 0.1 * 3.

    Examples
    --------
    >>> round_to(0.1, np.array([0.1 * 3])), round_to(1e300, np.array([3e300]))
    (array([0.3]), array([3.e+300]))
    """
    return np.round(values, 12) if step < 1 else values


def whole_edges(low: float, high: float) -> Floats:
    """Return edges halfway between whole numbers: at least five bins, at most about `BINS`.

    Examples
    --------
    >>> whole_edges(3, 5).tolist()
    [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    """
    missing = max(0.0, 4.0 - (high - low))
    low -= min(low, np.ceil(missing / 2))
    high = max(high, low + 4.0)
    step = max(1.0, np.ceil((high - low + 1) / BINS))
    bins = int((high - low) // step) + 1
    return low - 0.5 + np.arange(bins + 1) * step


def read_facts(
    store: Store, operation: Operation, catalog: pa.Table, suffix: str = ""
) -> QcStatistics:
    """Read the statistics of an operation from its tables.

    Parameters
    ----------
    catalog
        The catalog's rows, which hold the spacing of each image.

    Raises
    ------
    NoTable, CorruptStore, MissingObject
    """
    names = table_names(operation, suffix)
    wanted = ["image_id", "source", *GROUP, "name", "status", "reason", COUNT]
    with open_table(store, names["images"]) as file:
        there = set(file.schema_arrow.names)  # tables of an earlier version have fewer means
        averaged = [n for n in operation.averaged_columns if f"{n}_mean" in there]
        means = [f"{name}_mean" for name in averaged]
        images = file.read([*wanted, *means], use_threads=False)
    subjects, subject = _numbered([images["subject"]])
    experiments, experiment = _numbered([images[name] for name in GROUP])
    measures = {COUNT: _floats(images[COUNT])}
    groups, group = _groups(images["image_id"], subjects, subject, catalog)
    for name in averaged:
        measures[name] = _floats(images[f"{name}_mean"])
    watched = [n for n in operation.qc_columns if n in operation.object_schema.names]
    with open_table(store, names["objects"]) as file:
        of_objects, watched_means = _read_objects(
            file, (*averaged, *watched), measures[COUNT], group, len(groups)
        )
        objects = file.metadata.num_rows
    measures.update({name: watched_means[name] for name in watched})
    return QcStatistics(
        images.select(["image_id", "source", *GROUP, "name", "status", "reason"]),
        _repeated(images["status"]),
        tuple(name for (name,) in subjects),
        subject,
        tuple((a, b, c) for a, b, c in experiments),
        experiment,
        measures,
        objects,
        (_count_histogram(measures[COUNT], group, len(groups)), *of_objects),
        groups,
        group,
    )


def _groups(
    image_ids: pa.ChunkedArray,
    subjects: Sequence[tuple[str, ...]],
    subject: Whole,
    catalog: pa.Table,
) -> tuple[tuple[str, ...], Whole]:
    """Return the groups within which images are compared, and each image's; see `QcStatistics`.

    Images without pixels have no figures; they are in the first group of their subject.
    """
    rows = catalog.filter(pc.is_valid(catalog["stack"]))
    sides = (rows[f"spacing_{axis}_um"].to_pylist() for axis in "yx")
    spacings, number = group_spacings([known_spacing(y, x) for y, x in zip(*sides, strict=True)])
    names = tuple(name for (name,) in subjects)
    if len(spacings) < 2:
        return names, subject
    at = pc.index_in(image_ids.combine_chunks(), value_set=rows["image_id"].combine_chunks())
    spacing = np.append(number, 0)[pc.fill_null(at, len(number)).to_numpy(zero_copy_only=False)]
    pairs, group = np.unique(subject * len(spacings) + spacing, return_inverse=True)
    told = [divmod(int(pair), len(spacings)) for pair in pairs]
    texts = (f"{names[s]} {spacing_text(spacings[n])}".strip() for s, n in told)
    return tuple(texts), group.ravel().astype(np.int64)


def read_chosen(store: Store, operation: Operation, suffix: str, where: str) -> NDArray[np.bool_]:
    """Return the mask of images that match a condition on the table of images, in table order.

    Raises
    ------
    ConditionError, NoTable, CorruptStore, MissingObject
    """
    condition = parse_condition(where)
    with open_table(store, table_names(operation, suffix)["images"]) as file:
        names = file.schema_arrow.names
        require_columns(where, condition, names)
        named = {name.name for name in names_of(condition)}
        rows = file.read([name for name in names if name in named], use_threads=False)
    return select_rows(rows, where)


def _repeated(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Return a column of few distinct strings; equal strings share one object."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = np.array(encoded.dictionary.to_pylist(), object)
    return texts[encoded.indices.to_numpy()] if len(texts) else np.empty(0, object)


def _floats(column: pa.ChunkedArray) -> Floats:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)


def _numbered(columns: Sequence[pa.ChunkedArray]) -> tuple[list[tuple[str, ...]], Whole]:
    """Return the distinct rows of some columns, sorted, and the index of each row in them."""
    parts = [column.combine_chunks().dictionary_encode() for column in columns]
    codes = np.zeros(len(columns[0]), np.int64)
    for part in parts:
        codes = codes * (len(part.dictionary) + 1) + part.indices.to_numpy(zero_copy_only=False)
    _, first, number = np.unique(codes, return_index=True, return_inverse=True)
    rows = [tuple(str(column[int(n)].as_py()) for column in columns) for n in first]
    order = sorted(range(len(rows)), key=lambda n: rows[n])
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))
    return [rows[n] for n in order], rank[number.ravel()]


def _count_histogram(count: Floats, subject: Whole, subjects: int) -> Histogram:
    known = np.isfinite(count)
    low, high = (float(count[known].min()), float(count[known].max())) if known.any() else (0.0, 0)
    edges = whole_edges(low, high)
    counts, sums = _tally(count[known], subject[known], subjects, edges)
    return Histogram(COUNT, edges, counts, _mean(sums, counts.sum(axis=1)))


def _tally(values: Floats, subject: Whole, subjects: int, edges: Floats) -> tuple[Whole, Floats]:
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    counts = np.bincount(subject * bins + place, minlength=subjects * bins)
    sums = np.bincount(subject, values, minlength=subjects)
    return counts.reshape(subjects, bins).astype(np.int64), sums.astype(np.float64)


def _mean(sums: Floats, count: NDArray[Any]) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / count, np.float64)


def _range(file: pq.ParquetFile, name: str) -> tuple[float, float]:
    """Return a column's minimum and maximum from the file's row group statistics."""
    low, high = np.inf, -np.inf
    for group in range(file.metadata.num_row_groups):
        columns = file.metadata.row_group(group)
        for number in range(columns.num_columns):
            told = columns.column(number).statistics
            if columns.column(number).path_in_schema == name and told and told.has_min_max:
                low, high = min(low, float(told.min)), max(high, float(told.max))
    return low, high


def _read_objects(
    file: pq.ParquetFile, names: Sequence[str], count: Floats, subject: Whole, subjects: int
) -> tuple[list[Histogram], dict[str, Floats]]:
    """Return histograms of object columns, and each image's mean of them."""
    edges = {name: nice_edges(*_range(file, name)) for name in names}
    counts = {name: np.zeros((subjects, len(edges[name]) - 1), np.int64) for name in names}
    sums = {name: np.zeros(subjects) for name in names}
    by_image = {name: np.zeros((2, len(count))) for name in names}
    # Objects are stored in the order of their images, so counts assign them to images.
    ends = np.cumsum(np.nan_to_num(count)).astype(np.int64)
    start = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.read_row_group(group, columns=list(names), use_threads=False)
        image = np.searchsorted(ends, np.arange(start, start + rows.num_rows), side="right")
        start += rows.num_rows
        for name in names:
            values = _floats(rows[name])
            known = np.isfinite(values)
            values, whose = values[known], image[known]
            more, total = _tally(values, subject[whose], subjects, edges[name])
            counts[name] += more
            sums[name] += total
            by_image[name][0] += np.bincount(whose, values, minlength=len(count))
            by_image[name][1] += np.bincount(whose, minlength=len(count))
    histograms = [
        Histogram(name, edges[name], counts[name], _mean(sums[name], counts[name].sum(axis=1)))
        for name in names
    ]
    return histograms, {name: _mean(*by_image[name]) for name in names}
