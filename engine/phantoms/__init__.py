"""Synthetic images with exact ground truth, and scoring of detections against it.

``discs`` makes images of discs: ``options`` (parameters), ``placement`` (layout), ``shapes``
(rasterisation), ``image`` (one image by number), ``files`` (files and the truth table) and
``scoring`` (found circles against true ones). ``cine`` makes DICOM files of a beating ventricle
with contours: ``frames`` and ``files``. ``marrow`` makes slides of bone marrow: ``options``,
``tissue`` (anatomy), ``stain`` (colours), ``slide`` (any rows of a slide) and ``files``. ``cells``
makes two-channel fluorescence: ``options``, ``random_lattice``, ``nuclei`` (placement and shape),
``field`` (any region), ``objects`` (numbers and sums), ``tiff_file`` and ``files``.
"""

from engine.phantoms.cells.files import write_cells
from engine.phantoms.cells.options import CellOptions
from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineFrame, CineOptions, draw_cine_frame, make_heart
from engine.phantoms.discs.files import write_discs
from engine.phantoms.discs.image import DiscImage, draw_disc_image
from engine.phantoms.discs.options import DiscOptions
from engine.phantoms.discs.placement import Placement
from engine.phantoms.discs.scoring import Score, match_circles, merge_scores

__all__ = [
    "CellOptions",
    "CineFrame",
    "CineOptions",
    "DiscImage",
    "DiscOptions",
    "Placement",
    "Score",
    "draw_cine_frame",
    "draw_disc_image",
    "make_heart",
    "match_circles",
    "merge_scores",
    "write_cells",
    "write_cine",
    "write_discs",
]
