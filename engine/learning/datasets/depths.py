"""Classes of depth in objects, by which a network that classifies pixels tells touching ones apart.

Depth is the distance to the nearest pixel outside of the object, as a share of the largest in it.
So a line between two objects that touch is shallow on both sides, whatever their size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

DEPTHS = ("background", "rim", "middle", "core")
"""Names of the classes, from the outside to the inside: thirds of the largest depth."""


def depth_classes(instances: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the class of depth (y, x) of each pixel of a label image of objects.

    Parameters
    ----------
    instances
        (y, x) of integers; 0 is background. The image's border is not an object's border.

    Examples
    --------
    >>> depth_classes(np.array([[0, 5, 5, 5, 5, 5, 9, 9, 0]]))
    array([[0, 1, 2, 3, 2, 1, 3, 3, 0]], dtype=uint8)
    """
    classes = np.zeros(instances.shape, np.uint8)
    for number, box in enumerate(ndimage.find_objects(instances), 1):
        if box is None:
            continue
        grown = tuple(
            slice(max(0, side.start - 1), min(length, side.stop + 1))
            for side, length in zip(box, instances.shape, strict=True)
        )
        inside = instances[grown] == number
        depth = ndimage.distance_transform_edt(inside)
        share = depth / depth.max()
        level = 1 + (share > 1 / 3) + (share > 2 / 3)
        classes[grown][inside] = level[inside]
    return classes
