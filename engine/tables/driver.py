"""Reduce results into tables: slices on workers, a merge tree, then each file replaced once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import MissingObject
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.operations.base import Operation
from engine.runs.inputs import input_provenance
from engine.runs.worker import ledger_of
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import ORPHANED
from engine.store.config import CohortConfig
from engine.store.delta.integrity import state_digest
from engine.store.delta.ledger import Snapshot
from engine.store.delta.parts import Part
from engine.store.path_pattern import FIELDS
from engine.store.subjects import read_subjects
from engine.store.tables import (
    FRAGMENTS,
    concat_fragments,
    drop_fragments,
    drop_tables,
    read_fragment,
    read_provenance,
    write_fragment,
    write_table,
)
from engine.tables.build import (
    SLICE_IMAGES,
    SUMMARIES,
    TableContext,
    build_slice,
    finish_experiments,
    merge_experiments,
    table_names,
)
from engine.tables.channels import all_channels

if TYPE_CHECKING:
    from distributed import Client

MERGE_FANIN = 16
"""Maximum fragments that one task merges."""

ORPHANS_RULE = 1
"""Version of the rule that excludes orphaned images from means. A change rebuilds the tables that
hold such images."""

SPACINGS_RULE = 1
"""Version of the rule that sizes in pixels have no mean over several spacings."""


@dataclass(frozen=True, slots=True)
class SliceTask:
    """A range of images, by image_id, and the parts that may hold their results."""

    number: int
    images: pa.Table
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Fragments of one kind to merge into one: partial sums, or data for summaries."""

    kind: str
    number: int
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssembleTask:
    """A table to assemble from its fragments."""

    kind: str
    name: str
    fragments: tuple[str, ...]


def slice_task(
    store: Store,
    operation: Operation,
    spec: TableContext,
    token: str,
    attempt: TaskAttempt[SliceTask],
) -> dict[str, str]:
    """Build one slice of each table on a worker; return the fragments' paths by kind."""
    task = attempt.task
    ledger = ledger_of(store, operation)
    wanted = pa.array(task.images["image_id"].to_pylist(), pa.string())
    pieces = [ledger.read((), None)]
    for rows in ledger.read_parts(task.parts):
        pieces.append(
            rows.select(ledger.schema.names).filter(pc.is_in(rows["image_id"], value_set=wanted))
        )
    tables = build_slice(operation, task.images, pa.concat_tables(pieces), spec)
    return {
        kind: write_fragment(store, token, f"{kind}-{task.number:06d}", rows)
        for kind, rows in tables.items()
    }


def merge_task(
    store: Store, operation: Operation, token: str, attempt: TaskAttempt[MergeTask]
) -> str:
    """Merge some fragments on a worker; return the path of the merged one."""
    task = attempt.task
    parts = [read_fragment(store, path) for path in task.fragments]
    if task.kind == SUMMARIES:
        merged = operation.merge_summaries(parts)
    else:
        merged = merge_experiments(operation, parts)
    return write_fragment(store, token, f"merged-{task.kind}-{task.number:06d}", merged)


def assemble_task(
    store: Store,
    operation: Operation,
    spec: TableContext,
    origin: Mapping[str, Any],
    attempt: TaskAttempt[AssembleTask],
) -> bool:
    """Assemble a table on a worker, with one fragment in memory at a time."""
    task = attempt.task
    pieces = concat_fragments(store, task.fragments)
    if task.kind == "experiments":
        pieces = (finish_experiments(operation, piece, spec) for piece in pieces)
    elif task.kind in operation.cohort_tables:
        pieces = (operation.finish_summaries(piece)[task.kind] for piece in pieces)
    return write_table(store, task.name, pieces, origin)


def make_tables(
    store: Store,
    config: CohortConfig,
    operation: Operation,
    client: Client,
    catalog: tuple[int, pa.Table],
    results: Snapshot,
    *,
    trial: bool,
    events: ProgressListener | None = None,
) -> list[str]:
    """Build an operation's tables as a cohort declares them; see `reduce_tables`.

    Parameters
    ----------
    catalog
        Version of the catalog, and its current rows by image_id.
    results
        Snapshot of the operation's ledger.
    trial
        Whether the parameters differ from the declared ones.
    """
    version, images = catalog
    operation = operation.for_channels(all_channels(images))
    subjects, digest = read_subjects(store, config)
    names = {n for name in config.roots for n in config.layout_of(name).names} - {*FIELDS}
    spec = TableContext((*FIELDS, *sorted(names)), subjects)
    origin = {
        "operation": operation.name,
        "version": operation.version,
        "key": operation.key,
        "catalog": version,
        "results": results.version,
        "parts": state_digest(results.of_key(operation.key)),
        "subjects": digest,
        "fields": list(spec.fields),
        **input_provenance(images),
    }
    if ORPHANED in images["state"].unique().to_pylist():
        origin["orphaned"] = ORPHANS_RULE
    if operation.pixel_sizes:
        origin["spacings"] = SPACINGS_RULE
    if operation.cohort_tables_version > 1:
        origin["summaries"] = operation.cohort_tables_version
    of_trial = f"@{operation.key[:8]}"
    suffix = of_trial if trial else ""
    made = reduce_tables(
        store, operation, client, images, results, origin, spec, suffix=suffix, events=events
    )
    if not trial:  # drop the trial's tables: no later run would update them
        drop_tables(store, table_names(operation, of_trial).values())
    return made


def reduce_tables(  # noqa: PLR0913 - options by name
    store: Store,
    operation: Operation,
    client: Client,
    images: pa.Table,
    results: Snapshot,
    origin: Mapping[str, Any],
    spec: TableContext,
    *,
    suffix: str = "",
    events: ProgressListener | None = None,
) -> list[str]:
    """Build an operation's tables, unless they are up to date.

    Parameters
    ----------
    images
        The catalog's current rows, by image_id.
    results
        Snapshot of the operation's ledger.
    origin
        Provenance of the tables; written beside them.
    suffix
        Suffix of the tables' names: "" for the declared parameters, "@<key8>" for a trial.

    Returns
    -------
    Names of the tables, whether rebuilt or up to date.
    """
    names = table_names(operation, suffix)
    if all(_same(read_provenance(store, name), origin) for name in names.values()):
        return list(names.values())
    check_writable(store)
    shown = events or ProgressListener()
    for last in (False, True):
        try:
            reduction = _Reduction(store, operation, client, spec)
            reduction.run(images, results.of_key(operation.key), names, origin, shown)
            break
        except MissingObject as error:  # gc mistook a fragment for a leftover of a killed run
            if last or not str(error.args[0]).startswith(FRAGMENTS):
                raise
    return list(names.values())


@dataclass(frozen=True)
class _Reduction:
    """Build of an operation's tables on workers; a token names the fragments of this build."""

    store: Store
    operation: Operation
    client: Client
    spec: TableContext
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def run(
        self,
        images: pa.Table,
        parts: Sequence[Part],
        names: Mapping[str, str],
        origin: Mapping[str, Any],
        events: ProgressListener,
    ) -> None:
        """Build the tables in slices of images, merge the slices, and assemble each table."""
        store, operation, spec, token = self.store, self.operation, self.spec, self.token
        events.start("tables", images.num_rows, "images")
        try:
            slices: list[tuple[int, dict[str, str]]] = []
            window = self._window(slice_task, lambda a: (store, operation, spec, token, a), "slice")
            for task, value in _each(window, _slices(images, parts)):
                slices.append((task.number, value))
                events.advance("tables", task.images.num_rows)
            slices.sort(key=lambda pair: pair[0])
            fragments = {k: tuple(paths[k] for _, paths in slices) for k in slices[0][1]}
            for kind in {"experiments", SUMMARIES} & set(fragments):
                fragments[kind] = self._merge(kind, fragments[kind])
            tasks = [
                AssembleTask(
                    kind, name, fragments[SUMMARIES if kind in operation.cohort_tables else kind]
                )
                for kind, name in names.items()
            ]
            window = self._window(
                assemble_task, lambda a: (store, operation, spec, origin, a), "table"
            )
            for _ in _each(window, tasks):
                pass
        finally:
            drop_fragments(store, token)
        events.finish("tables")

    def _merge(self, kind: str, fragments: tuple[str, ...]) -> tuple[str, ...]:
        """Merge fragments of a kind, a level of the tree at a time, always in the same order."""
        store, operation, token = self.store, self.operation, self.token
        number = 0
        while len(fragments) > 1:
            groups = [fragments[i : i + MERGE_FANIN] for i in range(0, len(fragments), MERGE_FANIN)]
            tasks = [MergeTask(kind, number + n, group) for n, group in enumerate(groups)]
            number += len(tasks)
            window = self._window(merge_task, lambda a: (store, operation, token, a), "merge")
            merged = {task.number: path for task, path in _each(window, tasks)}
            fragments = tuple(merged[n] for n in sorted(merged))
        return fragments

    def _window(
        self, function: Callable[..., Any], arguments: Callable[[Any], tuple[Any, ...]], label: str
    ) -> TaskPool:
        return TaskPool(self.client, function, arguments, label=label)


def _same(there: Mapping[str, Any] | None, origin: Mapping[str, Any]) -> bool:
    """Compare provenance, ignoring the ledger version: commits of other keys change only that."""
    return there is not None and {**there, "results": 0} == {**origin, "results": 0}


def _slices(images: pa.Table, parts: Sequence[Part]) -> Iterator[SliceTask]:
    for number, start in enumerate(range(0, max(images.num_rows, 1), SLICE_IMAGES)):
        rows = images.slice(start, SLICE_IMAGES).combine_chunks()
        ids = rows["image_id"].to_pylist() or [""]
        low, high = ids[0], ids[-1]
        yield SliceTask(number, rows, tuple(p for p in parts if p.low <= high and p.high >= low))


def _each(pool: TaskPool, tasks: Any) -> Iterator[tuple[Any, Any]]:
    """Run tasks that can't be split: one that repeatedly crashes its worker ends the reduction."""
    for answer in map_tasks(pool, tasks):
        yield answer.task, answer.value
