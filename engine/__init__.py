"""Cohort: a scalable engine for biomedical images.

>>> import engine
>>> operation = engine.circles(radius_px=(10, 60))
>>> operation.name
'circles'
"""

from engine.cohort.cohort import Cohort
from engine.cohort.cohort import create_cohort_at as create
from engine.cohort.cohort import open_cohort as open  # noqa: A004 - engine.open reads as it should
from engine.errors import EngineError
from engine.execution.cluster.cluster import Cluster as cluster  # noqa: N813 - used as a verb
from engine.execution.progress import Events
from engine.learning.datasets.label_images import LabelImages
from engine.learning.datasets.mask_files import LayeredFiles, MaskFolders
from engine.learning.datasets.masks import ContourMasks
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.cardiac.bloodpool import Bloodpool as bloodpool  # noqa: N813
from engine.operations.cardiac.contours import Contours as contours  # noqa: N813
from engine.operations.circles import Circles as circles  # noqa: N813 - used as a verb
from engine.operations.function import from_function
from engine.operations.outlines import Outline
from engine.operations.segment.operation import Segment as segment  # noqa: N813

__all__ = [
    "Cohort",
    "ContourMasks",
    "EngineError",
    "Events",
    "Image",
    "ImageFailed",
    "LabelImages",
    "LayeredFiles",
    "MaskFolders",
    "Operation",
    "Outline",
    "bloodpool",
    "circles",
    "cluster",
    "contours",
    "create",
    "from_function",
    "open",
    "segment",
]
