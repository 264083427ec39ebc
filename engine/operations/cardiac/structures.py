"""Which of what is drawn on an image an operation speaks of."""

from __future__ import annotations

from collections.abc import Mapping

from engine.operations.base import Image, ImageFailed
from engine.store.catalog.annotations import Contour


def structures_of(image: Image, annotation: str | None) -> Mapping[str, Contour]:
    """Return what is drawn on an image, by structure.

    Parameters
    ----------
    annotation
        Name of the set, or None: the only one that draws on this image.

    Raises
    ------
    ImageFailed
        ``several_annotations`` if sets draw the same structure and none was chosen.
    """
    found: dict[str, Contour] = {}
    for contour in image.annotations:
        if annotation is not None and contour.annotation != annotation:
            continue
        if contour.structure in found:
            raise ImageFailed("several_annotations")
        found[contour.structure] = contour
    return found
