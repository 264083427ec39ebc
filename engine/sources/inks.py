"""Conversion of four inks (CMYK) to RGB: by the file's own colour profile, else by a fixed rule."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable

BY_PROFILE, BY_RULE = "cmyk_by_profile", "cmyk_by_rule"
"""Findings (`engine.header.FINDINGS`): methods of the conversion."""

_CMYK, _PROFILE_MARK = b"CMYK", b"acsp"  # ICC.1:2022, 7.2: at bytes 16 and 36
_HEADER_BYTES = 128


def finding_of(profile: bytes | None) -> str:
    """Return the finding of a CMYK image."""
    return BY_RULE if profile is None else BY_PROFILE


def cmyk_profile(profile: Any) -> bytes | None:
    """Return a file's ICC profile if it is for CMYK, else None.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if it is marked as a CMYK profile, but can't be used.
    """
    if not isinstance(profile, bytes) or len(profile) < _HEADER_BYTES:
        return None
    if profile[16:20] != _CMYK or profile[36:40] != _PROFILE_MARK:
        return None
    try:
        _convert(np.zeros((1, 1, 4), np.uint8), profile)
    except Exception:
        raise SourceUnreadable("corrupt", "the CMYK colour profile can't be used") from None
    return profile


def rgb_of_inks(inks: NDArray[Any], profile: bytes | None) -> NDArray[Any]:
    """Convert inks to sRGB.

    Parameters
    ----------
    inks
        (4, y, x) uint8 or uint16: cyan, magenta, yellow, black; 0 means no ink.
    profile
        From `cmyk_profile`: relative colorimetric, by Little CMS. None means the rule of libtiff
        and Pillow: the light that an ink leaves times the light that black leaves.

    Returns
    -------
    (3, y, x), of the type of ``inks``.

    Examples
    --------
    >>> rgb_of_inks(np.array([0, 255, 255, 0], np.uint8).reshape(4, 1, 1), None).ravel().tolist()
    [255, 0, 0]
    """
    if profile is not None:
        return np.moveaxis(_convert(np.ascontiguousarray(np.moveaxis(inks, 0, -1)), profile), -1, 0)
    full = np.iinfo(inks.dtype).max
    left = (full - inks).astype(np.uint32)
    return ((left[:3] * left[3] + full // 2) // full).astype(inks.dtype)


def _convert(inks: NDArray[Any], profile: bytes) -> NDArray[Any]:
    found: NDArray[Any] = imagecodecs.cms_transform(
        inks, profile, _srgb(), colorspace="cmyk", outcolorspace="rgb", intent=1
    )
    return found


@lru_cache(1)
def _srgb() -> bytes:
    return bytes(imagecodecs.cms_profile("srgb"))
