"""Cluster specification and the opened cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import ParameterError

if TYPE_CHECKING:
    from distributed import Client

START_S = 120.0
"""Timeout for the start of workers, seconds: local ones take 2 on an idle machine, ones on
Kubernetes 10 if nodes and images are available."""


GPU_SLOT = {"GPU": 1.0}
"""Resources of the first local worker, with or without a GPU: networks run on any machine, and only
one worker holds a model in memory."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Requested cluster; ``None`` means unspecified."""

    where: str
    workers: int | None
    threads_per_worker: int | None
    memory_limit: str | float | None
    gpu_workers: int | None
    resources: Mapping[str, float]
    processes: bool

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("workers", "threads_per_worker", "gpu_workers"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ParameterError(name, count, "at least 1")
        if self.memory_limit not in (None, "auto"):
            from dask.utils import parse_bytes

            try:
                parse_bytes(self.memory_limit)
            except ValueError:
                expected = "'auto' or a size of one worker such as '4GiB'; 0 is no limit"
                raise ParameterError("memory_limit", self.memory_limit, expected) from None


@dataclass(frozen=True, slots=True)
class OpenCluster:
    """An open cluster.

    Attributes
    ----------
    client
        A `distributed.Client`.
    scale
        Sets the number of workers, and of GPU workers (None leaves it unchanged); None for a
        cluster that this process did not start.
    dashboard_link
        URL of the dashboard, if it differs from the scheduler's.
    told
        Further description of the cluster for users.
    """

    client: Client
    scale: Callable[[int, int | None], None] | None = None
    dashboard_link: str | None = None
    description: str = ""
