"""Mixin of `Cohort` that runs plain functions; see `engine.cohort.cohort` for the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from engine.deprecations import renamed_arguments
from engine.execution.progress import ProgressListener
from engine.operations.base import Operation

if TYPE_CHECKING:
    from distributed import Client

    from engine.execution.cluster.cluster import Cluster
    from engine.runs.driver import RunReport


class Runs(Protocol):
    """Interface of a class that runs operations: a cohort."""

    def run(
        self,
        operation: Operation,
        *,
        client: Client | Cluster | None,
        where: str | None,
        limit: int | None,
        retry_failed: bool,
        events: ProgressListener | None,
    ) -> RunReport:
        """Compute missing results; see `engine.Cohort.run`."""


class Functions:
    """Mixin of `Cohort` that computes a function on all images."""

    @renamed_arguments(singular="object_name", quantities="averaged_columns")
    def map(
        self: Runs,
        function: Callable[..., Any],
        *,
        name: str,
        schema: Mapping[str, Any] | pa.Schema | None = None,
        labels: Literal["instances"] | None = None,
        upstream: Sequence[str | Operation] = (),
        version: int = 1,
        parameters: Mapping[str, Any] | None = None,
        resources: Mapping[str, float] | None = None,
        object_name: str = "object",
        averaged_columns: Sequence[str] | None = None,
        halo_px: int = 0,
        client: Client | Cluster | None = None,
        where: str | None = None,
        limit: int | None = None,
        retry_failed: bool = False,
        events: ProgressListener | None = None,
    ) -> RunReport:
        """Call a function for every image without a result, publish, and reduce into tables.

        Results are identified by name, version and parameters, **never by the function's source**:
        a changed function under the same version is not called again for images with a result.
        Increase ``version`` whenever the results change. Unless cohort.toml declares the
        function by its path, its tables carry the key: ``tables/<name>@<key>.parquet``, named by
        the report.

        Parameters
        ----------
        function, name, schema, labels, upstream, version, parameters, resources, object_name,
        averaged_columns, halo_px
            Definition of the operation; see `engine.from_function`, which only creates the
            operation, to plan with it or to try it on one array.
        client, where, limit, retry_failed, events
            Cluster, selection and options; see `engine.Cohort.run`.

        Returns
        -------
        Report of the run, with the names of the tables.

        Raises
        ------
        ParameterError, NotPortable, ColumnsChanged, MissingPackage
        """
        from engine.operations.functions.function import from_function

        operation = from_function(
            function,
            name=name,
            schema=schema,
            labels=labels,
            upstream=upstream,
            version=version,
            parameters=parameters,
            resources=resources,
            object_name=object_name,
            averaged_columns=averaged_columns,
            halo_px=halo_px,
        )
        report = self.run(
            operation,
            client=client,
            where=where,
            limit=limit,
            retry_failed=retry_failed,
            events=events,
        )
        return report
