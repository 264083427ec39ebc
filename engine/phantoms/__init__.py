"""Made images of which everything is known, and how to judge what was found in them.

``options`` says what can be asked for, ``discs`` draws an image by its number, ``placing`` lays
the discs out, ``drawing`` turns shapes into pixels, ``writing`` makes files and the table of
truth, ``scoring`` compares found circles with true ones. ``cine`` draws a beating ventricle and
``cine_files`` writes it as DICOM, with contours. The modules ``marrow*`` make slides of bone
marrow: ``marrow_options`` what can be asked for, ``marrow_tissue`` what lies where,
``marrow_stain`` how it looks, ``marrow`` any rows of a slide, ``marrow_writing`` files.
"""

from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineFrame, CineOptions, draw_cine_frame, make_heart
from engine.phantoms.discs.files import write_discs
from engine.phantoms.discs.image import DiscImage, draw_disc_image
from engine.phantoms.discs.options import DiscOptions
from engine.phantoms.discs.placement import Placement
from engine.phantoms.discs.scoring import Score, match_circles, merge_scores

__all__ = [
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
    "write_cine",
    "write_discs",
]
