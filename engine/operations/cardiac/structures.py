"""Select the contours that an operation uses."""

from __future__ import annotations

from collections.abc import Mapping

from engine.operations.base import Image, ImageFailed
from engine.store.catalog.annotations import Contour


def structures_of(image: Image, annotation: str | None) -> Mapping[str, Contour]:
    """Return the contours on an image, by structure.

    Parameters
    ----------
    annotation
        Name of the set, or None for the only set that draws on this image.

    Raises
    ------
    ImageFailed
        ``several_annotations`` if several sets draw the same structure and none was chosen.
    """
    found: dict[str, Contour] = {}
    for contour in image.annotations:
        if annotation is not None and contour.annotation != annotation:
            continue
        if contour.structure in found:
            raise ImageFailed("several_annotations")
        found[contour.structure] = contour
    return found
