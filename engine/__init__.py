"""Cohort: a scalable engine for biomedical images.

>>> import engine
>>> operation = engine.circles(radius_px=(10, 60))
>>> operation.name
'circles'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.cohort.cohort import Cohort
    from engine.cohort.opening import create_cohort_at as create
    from engine.cohort.opening import open_cohort as open  # noqa: A004 - reads as it should
    from engine.errors import EngineError
    from engine.execution.cluster.cluster import Cluster as cluster  # noqa: N813 - used as a verb
    from engine.execution.progress import ProgressListener
    from engine.learning.datasets.label_images import LabelImages
    from engine.learning.datasets.mask_files import LayeredFiles, MaskFolders
    from engine.learning.datasets.masks import ContourMasks
    from engine.operations.base import Image, ImageFailed, Operation
    from engine.operations.cardiac.bloodpool import Bloodpool as bloodpool  # noqa: N813
    from engine.operations.cardiac.contours import Contours as contours  # noqa: N813
    from engine.operations.channels import Channel
    from engine.operations.circles import Circles as circles  # noqa: N813 - used as a verb
    from engine.operations.functions.function import from_function
    from engine.operations.instances import InstanceOperation
    from engine.operations.measure import Measure as measure  # noqa: N813 - used as a verb
    from engine.operations.nuclei.operation import Nuclei as nuclei  # noqa: N813
    from engine.operations.outlines import Outline
    from engine.operations.segment.operation import Segment as segment  # noqa: N813

_HOMES = {
    "Channel": "engine.operations.channels:Channel",
    "Cohort": "engine.cohort.cohort:Cohort",
    "ContourMasks": "engine.learning.datasets.masks:ContourMasks",
    "EngineError": "engine.errors:EngineError",
    "Image": "engine.operations.base:Image",
    "ImageFailed": "engine.operations.base:ImageFailed",
    "InstanceOperation": "engine.operations.instances:InstanceOperation",
    "LabelImages": "engine.learning.datasets.label_images:LabelImages",
    "LayeredFiles": "engine.learning.datasets.mask_files:LayeredFiles",
    "MaskFolders": "engine.learning.datasets.mask_files:MaskFolders",
    "Operation": "engine.operations.base:Operation",
    "Outline": "engine.operations.outlines:Outline",
    "ProgressListener": "engine.execution.progress:ProgressListener",
    "bloodpool": "engine.operations.cardiac.bloodpool:Bloodpool",
    "circles": "engine.operations.circles:Circles",
    "cluster": "engine.execution.cluster.cluster:Cluster",
    "contours": "engine.operations.cardiac.contours:Contours",
    "create": "engine.cohort.opening:create_cohort_at",
    "from_function": "engine.operations.functions.function:from_function",
    "measure": "engine.operations.measure:Measure",
    "nuclei": "engine.operations.nuclei.operation:Nuclei",
    "open": "engine.cohort.opening:open_cohort",
    "segment": "engine.operations.segment.operation:Segment",
}
"""Definition of each public name; the first use of a name imports its module."""

_EARLIER = {"Events": "ProgressListener"}
"""Names of an earlier version, for one version."""

__all__ = [
    "Channel",
    "Cohort",
    "ContourMasks",
    "EngineError",
    "Image",
    "ImageFailed",
    "InstanceOperation",
    "LabelImages",
    "LayeredFiles",
    "MaskFolders",
    "Operation",
    "Outline",
    "ProgressListener",
    "bloodpool",
    "circles",
    "cluster",
    "contours",
    "create",
    "from_function",
    "measure",
    "nuclei",
    "open",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name in _EARLIER:
        from engine.deprecations import warn_deprecated

        warn_deprecated(f"engine.{name} is called engine.{_EARLIER[name]} now.")
        name = _EARLIER[name]
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
