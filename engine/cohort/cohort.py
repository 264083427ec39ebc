"""The class `Cohort`: public interface of the engine, for notebooks and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import pyarrow as pa

from engine.cohort.batches import Batching
from engine.cohort.functions import Functions
from engine.cohort.images import Images, stack_tree
from engine.cohort.maintenance import Upkeep
from engine.cohort.qc import QualityControl
from engine.cohort.training import Learning
from engine.conditions.compiling import filter_rows
from engine.deprecations import warn_deprecated
from engine.errors import NothingFound, UsageError
from engine.execution.cluster.cluster import Cluster, use_client
from engine.execution.notebook_progress import default_progress
from engine.execution.progress import ProgressListener
from engine.execution.repairs import note_repairs
from engine.operations.base import Operation
from engine.operations.chains.binding import Binder, NoUpstream, names_in_order
from engine.operations.functions.creation import create_operation, definition_of
from engine.operations.labels import read_labels_due
from engine.operations.registry import BrokenOperation, is_registered
from engine.runs.inputs import read_inputs
from engine.runs.plan import Plan, plan_run
from engine.runs.previous_key import find_previous_key
from engine.runs.publish import Publisher
from engine.runs.retry_pixels import find_retryable
from engine.runs.selection import check_declare_allowed, condition_of, require_channels
from engine.runs.worker import ledger_of
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import ShardRow, read_images, read_shards
from engine.store.config import (
    CohortConfig,
    declare_operation,
    read_config,
    read_identity,
)
from engine.store.tables import read_table, table_names_there

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from distributed import Client

    from engine.ingest.report import IngestReport
    from engine.ingest.roots import IngestRequest, Source
    from engine.runs.driver import RunReport


class RunOptions(TypedDict, total=False):
    """Options of `Cohort.run`."""

    client: Client | Cluster | None
    where: str | None
    limit: int | None
    retry_failed: bool
    declare: bool
    events: ProgressListener | None
    stop: Callable[[], bool]


class Cohort(Functions, Upkeep, QualityControl, Batching, Learning):
    """A cohort at a path or URL; opened or created by `engine.cohort.opening`.

    Attributes
    ----------
    store
        Storage of the cohort.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.identity = read_identity(store)

    def __repr__(self) -> str:
        return f"Cohort({self.store.url!r})"

    @property
    def root(self) -> Store:
        """Return `store` under its name in an earlier version."""
        warn_deprecated("Cohort.root is called Cohort.store now.")
        return self.store

    @property
    def config(self) -> CohortConfig:
        """Current contents of cohort.toml."""
        return read_config(self.store)

    # Input.

    def ingest(
        self,
        *sources: str | Path,
        client: Client | Cluster | None = None,
        layout: str | None = None,
        rehash: bool = False,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
        request: IngestRequest | None = None,
    ) -> IngestReport:
        """Ingest new and changed files of some sources, or of all declared roots.

        Parameters
        ----------
        sources
            Files or folders. A source inside a declared root belongs to it; any other becomes a new
            root in cohort.toml.
        client
            Client of the cluster to use; a local cluster by default.
        layout
            Pattern for the folders of new roots, e.g. ``{subject}/{name}``.
        rehash
            Open all files, also those that look unchanged.
        events
            Listener for progress; by default a notebook shows it, and a script is silent.
        request
            Sources that `require_sources` resolved, instead of ``sources`` and ``layout``.

        Raises
        ------
        NoSource, NothingFound
        NoPseudonymKey, OtherPseudonymKey
            If a root is confidential and the key is missing or differs.
        """
        from engine.ingest.driver import Ingest

        request = request or self.require_sources(*sources, layout=layout)
        shown = note_repairs(self.store, events or default_progress())
        with use_client(client, shown) as working:
            return Ingest(
                self.store, request, working, rehash=rehash, events=shown, stop=stop
            ).run()

    def require_sources(
        self, *sources: str | Path | Source, layout: str | None = None
    ) -> IngestRequest:
        """Resolve sources for `ingest`, or raise its errors, before a cluster is started.

        Raises
        ------
        NoSource, NothingFound, NoPseudonymKey, OtherPseudonymKey
        """
        from engine.ingest.roots import resolve_sources

        return resolve_sources(self.store, sources, layout, self.pseudonyms)

    # Computation.

    def operation(self, name: str, **given: Any) -> Operation:
        """Return an operation with the declared parameters, overridden by the given ones."""
        return self._bind(create_operation(name, self.config.operations.get(name, {}), given))

    def _bind(self, operation: Operation) -> Operation:
        return Binder(self.store, self.config.operations).bind(operation)

    def declared(self) -> list[Operation]:
        """Return the operations that cohort.toml declares, each after those that it reads.

        Raises
        ------
        NothingFound
            If it declares none.
        """
        declared = self.config.operations
        if not declared:
            raise NothingFound(
                "cohort.toml declares no operation yet",
                f"Name one: cohort run {quote(self.store.url)} circles --radius-px 10:60",
            )
        return [self.operation(name) for name in names_in_order(declared)]

    def plan(
        self,
        operation: Operation | str,
        *,
        where: str | None = None,
        limit: int | None = None,
        retry_failed: bool = False,
    ) -> Plan:
        """Return the plan of a run, with reasons; computes nothing."""
        (wanted,) = self._wanted(operation)
        other = find_previous_key(self.store, wanted)
        _, plan, _ = self._plan(wanted, where, limit, retry_failed, other)
        return plan

    def _plan(
        self,
        operation: Operation,
        where: str | None,
        limit: int | None,
        retry_failed: bool,
        other: tuple[Mapping[str, Any], frozenset[str]] | None = None,
    ) -> tuple[Publisher, Plan, tuple[int, pa.Table]]:
        catalog, images = read_inputs(self.store, operation)
        ledger = ledger_of(self.store, operation)
        publisher = Publisher(ledger, operation.key, ledger.snapshot())
        plan = plan_run(
            operation,
            images,
            publisher.planned(),
            other=other,
            where=condition_of(self.store, where),
            limit=limit,
            retry_failed=retry_failed,
            labels=read_labels_due(self.store, operation, images),
            restored=find_retryable(self.store, operation, images, publisher.lost),
            gone=publisher.gone,
        )
        require_channels(operation, images, plan.images)
        return publisher, plan, (catalog.version, images)

    @overload
    def run(self, operation: Operation | str, **options: Unpack[RunOptions]) -> RunReport: ...

    @overload
    def run(self, operation: None = None, **options: Unpack[RunOptions]) -> list[RunReport]: ...

    def run(
        self,
        operation: Operation | str | None = None,
        *,
        client: Client | Cluster | None = None,
        where: str | None = None,
        limit: int | None = None,
        retry_failed: bool = False,
        declare: bool = False,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> RunReport | list[RunReport]:
        """Compute missing results, publish them, and reduce them into tables.

        Parameters
        ----------
        operation
            Operation to run; by default all that cohort.toml declares.
        client
            Cluster to use, or its client; a local cluster by default.
        where, limit
            Selection: a condition on the catalog's columns, and a maximum number of images.
        retry_failed
            Retry images that failed.
        declare
            Declare these parameters in cohort.toml.
        events
            Listener for progress; by default a notebook shows it, and a script is silent.

        Returns
        -------
        The report of the given operation, or a list with a report of each declared one.

        Raises
        ------
        NothingFound
            If no operation is declared and none given.
        UsageError
            If ``declare`` is combined with a selection.
        """
        wanted = self._wanted(operation)
        check_declare_allowed(where, limit, declare)
        shown = note_repairs(self.store, events or default_progress())
        with use_client(client, shown) as working:
            reports = [
                self._run_one(o, working, where, limit, retry_failed, declare, shown, stop)
                for o in wanted
            ]
        return reports if operation is None else reports[0]

    def _wanted(self, operation: Operation | str | None) -> list[Operation]:
        if isinstance(operation, Operation):
            return [self._bind(operation)]
        return self.declared() if operation is None else [self.operation(operation)]

    def _run_one(
        self,
        operation: Operation,
        client: Client,
        where: str | None,
        limit: int | None,
        retry_failed: bool,
        declare: bool,
        events: ProgressListener | None,
        stop: Callable[[], bool],
    ) -> RunReport:
        from engine.runs.driver import PlannedRun, RunReport, execute_plan
        from engine.runs.labels.driver import restore_labels, run_numbers
        from engine.tables.driver import make_tables

        began = time.perf_counter()
        publisher, plan, (catalog, images) = self._plan(operation, where, limit, retry_failed)
        report = RunReport(
            operation.name,
            operation.key,
            selected=plan.selected,
            planned=plan.to_compute,
            copied=plan.causes.get("copy", 0),
            up_to_date=plan.settled.get("done", 0),
            failed_before=plan.settled.get("failed", 0),
            unreadable_sources=plan.unreadable,
            waiting=plan.settled.get("waiting", 0),
            reads=list(operation.upstream_names.values()),
        )
        if publisher.gone:
            check_writable(self.store)
            publisher.forget_gone()
        restore_labels(self.store, operation, plan.undescribed, self._files)
        if plan.to_compute:
            check_writable(self.store)
            run = PlannedRun(self.store, operation, plan, self._files(), publisher, report)
            execute_plan(run, client, events=events, stop=stop)
        run_numbers(
            self.store, operation, images, publisher, self._files, client,
            events=events, stop=stop,
        )  # fmt: skip
        # Never declare parameters under which every image failed.
        failed = report.failed + report.failed_before
        complete = where is None and limit is None and plan.selected > failed
        report.declared = self._declare(operation, complete, declare)
        report.trial = not self._is_declared(operation)
        report.tables = make_tables(
            self.store, self.config, operation, client, (catalog, images), publisher.snapshot,
            trial=report.trial, events=events,
        )  # fmt: skip
        report.elapsed_s = time.perf_counter() - began
        return report

    def _files(self) -> list[ShardRow]:
        return read_shards(self.store)

    def _is_declared(self, operation: Operation) -> bool:
        declared = self.config.operations.get(operation.name)
        return declared is not None and self._is_found(operation, declared)

    def _is_found(self, operation: Operation, entry: Mapping[str, Any]) -> bool:
        """Return whether an entry of cohort.toml creates an operation."""
        if not (definition_of(entry) or is_registered(operation)):
            return False
        try:
            return self._bind(create_operation(operation.name, entry, {})).key == operation.key
        except (NoUpstream, BrokenOperation):
            return False

    def _declare(self, operation: Operation, complete: bool, wanted: bool) -> bool:
        entry = definition_of(self.config.operations.get(operation.name, {})) | operation.parameters
        if not self._is_found(operation, entry):  # nor would a later run
            if wanted:
                raise UsageError(
                    f"{operation.name} can't be declared: no installed package offers it, or an "
                    "operation that it reads, by name."
                )
            return False
        if wanted or (complete and operation.name not in self.config.operations):
            return declare_operation(self.store, operation.name, entry, replace=wanted)
        return False

    # Output.

    def tables(self) -> list[str]:
        """Return the names of the existing tables."""
        return table_names_there(self.store)

    def table(self, name: str, where: str | None = None) -> pd.DataFrame:
        """Return a table, e.g. ``circles``; ``where`` is a condition on its own columns.

        Raises
        ------
        NoTable, CorruptStore, ConditionError
        """
        return self.arrow_table(name, where).to_pandas()

    def arrow_table(self, name: str, where: str | None = None) -> pa.Table:
        """Return a table as an Arrow table; see `table`."""
        rows = read_table(self.store, name)
        return rows if where is None else filter_rows(rows, where)

    def images(self, where: str | None = None, *, stored: bool = False) -> Images:
        """Return the images as a lazy sequence; each item is an `xarray.DataArray` (c, y, x).

        Parameters
        ----------
        where
            A condition on the catalog's columns.
        stored
            Return stored values even if the header has slope and intercept; by default those are
            applied (float64), e.g. to get Hounsfield units. A run passes stored values.
        """
        return Images(self.store, read_images(self.store)[1], self._files(), where, stored=stored)

    def stacks(self) -> xr.DataTree:
        """Return all stacks as a lazy tree with one node per stack and level."""
        images = read_images(self.store, ["stack", "channel_names"])[1]
        return stack_tree(self.store, images, self._files())
