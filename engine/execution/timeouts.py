"""Timeouts for the start of clusters and workers."""

from __future__ import annotations


def startup_timeout_s(default_s: float) -> float:
    """Return the timeout for a scheduler or for workers, seconds.

    Parameters
    ----------
    default_s
        Timeout for an existing cluster, or for this machine.

    Returns
    -------
    The default, or Dask's setting ``cohort.patience`` (e.g. ``20 minutes``) if that is longer: with
    nodes provisioned on demand, the first worker may start much later than the command.

    Examples
    --------
    >>> startup_timeout_s(15.0)
    15.0
    >>> import dask
    >>> with dask.config.set({"cohort.patience": "20 minutes"}):
    ...     startup_timeout_s(15.0)
    1200.0
    """
    import dask
    from dask.utils import parse_timedelta

    wanted = dask.config.get("cohort.patience", None)
    return default_s if wanted is None else max(default_s, float(parse_timedelta(wanted)))
