"""Mixin of `Cohort` for quality control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shlex import quote
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from engine.deprecations import renamed_arguments
from engine.errors import NothingFound, UsageError
from engine.execution.cluster.cluster import Cluster, use_client
from engine.execution.notebook_progress import default_progress
from engine.execution.progress import ProgressListener
from engine.execution.repairs import note_repairs
from engine.operations.base import Operation
from engine.runs.inputs import read_inputs
from engine.runs.worker import ledger_of
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.config import read_config

if TYPE_CHECKING:
    from distributed import Client

    from engine.qc.driver import QcReport


class QcOptions(TypedDict, total=False):
    """Options of `QualityControl.qc`."""

    client: Client | Cluster | None
    where: str | None
    all_images: bool
    events: ProgressListener | None
    stop: Callable[[], bool]


class QualityControl:
    """Pictures of results, by which people can check the tables."""

    store: Store

    if TYPE_CHECKING:  # provided by the cohort

        def _wanted(self, operation: Operation | str | None) -> list[Operation]: ...
        def _is_declared(self, operation: Operation) -> bool: ...
        def _files(self) -> Sequence[ShardRow]: ...

    @overload
    def qc(self, operation: Operation | str, **options: Unpack[QcOptions]) -> QcReport: ...

    @overload
    def qc(self, operation: None = None, **options: Unpack[QcOptions]) -> list[QcReport]: ...

    @renamed_arguments(everything="all_images")
    def qc(
        self,
        operation: Operation | str | None = None,
        *,
        client: Client | Cluster | None = None,
        where: str | None = None,
        all_images: bool = False,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> QcReport | list[QcReport]:
        """Make pictures of results, and a page that shows them: ``qc/<operation>/index.html``.

        Only missing and outdated pictures are rendered. The operation itself is not run; its tables
        are rebuilt if they are older than its results.

        Parameters
        ----------
        operation
            Operation whose results to show; by default all that cohort.toml declares.
        client
            Cluster to use, or its client; a local cluster by default.
        where
            A condition on the columns of ``<operation>_by_image``, which selects the images that
            get an overlay, among those with a result. The page counts all images, and keeps
            existing overlays.
        all_images
            Whether each image gets an overlay even if there are more than 1,000.

        Returns
        -------
        The report of the given operation, or a list with a report of each declared one.

        Raises
        ------
        NothingFound
            If no operation is declared and none given, there are no results yet, or ``where``
            matches no image.
        ConditionError
            If ``where`` is not a valid condition on that table.
        """
        from engine.qc.driver import make_pictures
        from engine.tables.driver import make_tables

        wanted = self._wanted(operation)
        if where is not None and all_images:
            raise UsageError("where selects images, and all_images takes all: give only one.")
        shown = note_repairs(self.store, events or default_progress())
        files, config = self._files(), read_config(self.store)
        reports = []
        with use_client(client, shown) as working:
            for one in wanted:
                catalog, images = read_inputs(self.store, one)
                results = ledger_of(self.store, one).snapshot()
                if not results.of_key(one.key):
                    raise NothingFound(
                        f"{one.name} has no results with these parameters",
                        f"Make them first: cohort run {quote(self.store.url)} {one.name}",
                    )
                trial = not self._is_declared(one)
                make_tables(
                    self.store, config, one, working, (catalog.version, images), results,
                    trial=trial, events=shown,
                )  # fmt: skip
                report = make_pictures(
                    self.store, one, working, images, results, files,
                    trial=trial, where=where, all_images=all_images, events=shown, stop=stop,
                )  # fmt: skip
                reports.append(report)
        return reports if operation is None else reports[0]
