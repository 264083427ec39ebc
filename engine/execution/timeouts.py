"""How long to wait for what a cluster has yet to bring."""

from __future__ import annotations

import dask
from dask.utils import parse_timedelta


def patience_s(default_s: float) -> float:
    """Return how long to wait for a scheduler or for workers, seconds.

    Parameters
    ----------
    default_s
        What is right where a cluster is there already, or on this machine.

    Returns
    -------
    The default, or Dask's setting ``cohort.patience`` (e.g. ``20 minutes``) if that is longer:
    where nodes are bought as they are needed, the first worker may come much later than a command.

    Examples
    --------
    >>> patience_s(15.0)
    15.0
    >>> with dask.config.set({"cohort.patience": "20 minutes"}):
    ...     patience_s(15.0)
    1200.0
    """
    wanted = dask.config.get("cohort.patience", None)
    return default_s if wanted is None else max(default_s, float(parse_timedelta(wanted)))
