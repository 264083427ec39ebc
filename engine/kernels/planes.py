"""Validation of planes and their memory layout for compiled kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError


def as_plane(plane: NDArray[Any], parameter: str = "plane") -> NDArray[Any]:
    """Return a plane in native byte order and C order, without a copy if it is so already.

    Parameters
    ----------
    plane
        Grey values (y, x): bool, integers or floats.
    parameter
        The caller's name of the parameter, for the error.

    Returns
    -------
    Array (y, x); bool stays bool, float16 and long double become float32 and float64.

    Raises
    ------
    ParameterError
        If it is not two-dimensional, or its values are not real numbers.

    Examples
    --------
    >>> as_plane(np.zeros((2, 3), ">u2")).dtype
    dtype('uint16')
    """
    array = np.asarray(plane)
    if array.ndim != 2:
        raise ParameterError(parameter, f"of shape {array.shape}", "a plane with axes (y, x)")
    if array.dtype.kind not in "buif":
        raise ParameterError(parameter, f"of type {array.dtype}", "bool, integer or float")
    wanted = array.dtype.newbyteorder("=")
    if wanted == np.float16:
        wanted = np.dtype(np.float32)
    elif wanted.kind == "f" and wanted.itemsize > 8:
        wanted = np.dtype(np.float64)
    return np.ascontiguousarray(array, wanted)
