"""A client whose cluster starts when work first asks for it.

A command or a method that finds nothing to do never starts one, and so never imports Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from distributed import Client

    from engine.execution.cluster.cluster import Cluster


class DeferredClient:
    """Stands for a `distributed.Client`, whose cluster opens when an attribute is first read."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the client, which is there from now on."""
        if self._client is None:
            self._client = self._connect()
        return getattr(self._client, name)


@contextmanager
def open_on_demand(
    open_cluster: Callable[[], Cluster],
    note: Callable[[str], None] = lambda text: None,
    *,
    at_once: bool = False,
) -> Iterator[Client]:
    """Give a client whose cluster starts when it is first needed, and is closed at the end.

    Parameters
    ----------
    open_cluster
        Opens the cluster; called once at most.
    note
        Receives a sentence that says where the cluster's dashboard is.
    at_once
        Whether the cluster is opened here already.
    """
    with ExitStack() as stack:

        def connect() -> Client:
            cluster = open_cluster()
            stack.callback(cluster.close)
            if cluster.dashboard_link:
                note(f"Dashboard: {cluster.dashboard_link}")
            return cluster.client

        yield connect() if at_once else cast("Client", DeferredClient(connect))
