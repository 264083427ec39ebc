"""Clusters that start on first use.

A command that finds nothing to do starts no cluster and does not import Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from distributed import Client


class OpenedCluster(Protocol):
    """Protocol of `engine.execution.cluster.cluster.Cluster`."""

    @property
    def client(self) -> Client:
        """Client of the cluster."""

    @property
    def dashboard_link(self) -> str | None:
        """Address of the dashboard, or None."""

    def close(self) -> None:
        """Close the client, and the cluster if it was started here."""


class DeferredClient:
    """Proxy of a `distributed.Client`; the first access to an attribute opens its cluster."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the client."""
        if self._client is None:
            self._client = self._connect()
        return getattr(self._client, name)


@contextmanager
def open_on_demand(
    open_cluster: Callable[[], OpenedCluster],
    note: Callable[[str], None] = lambda text: None,
    *,
    at_once: bool = False,
) -> Iterator[Client]:
    """Yield a client whose cluster starts on first use, and close the cluster at the end.

    Parameters
    ----------
    open_cluster
        Opens the cluster; called at most once.
    note
        Receives a sentence with the address of the dashboard.
    at_once
        True to open the cluster immediately.
    """
    with ExitStack() as stack:

        def connect() -> Client:
            cluster = open_cluster()
            stack.callback(cluster.close)
            if cluster.dashboard_link:
                note(f"Dashboard: {cluster.dashboard_link}")
            return cluster.client

        yield connect() if at_once else cast("Client", DeferredClient(connect))
