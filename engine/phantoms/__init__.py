"""Made images of which everything is known, and how to judge what was found in them.

``options`` says what can be asked for, ``discs`` draws an image by its number, ``placing`` lays
the discs out, ``drawing`` turns shapes into pixels, ``writing`` makes files and the table of
truth, ``scoring`` compares found circles with true ones. ``cine`` draws a beating ventricle and
``cine_files`` writes it as DICOM, with contours. The modules ``marrow*`` make slides of bone
marrow: ``marrow_options`` what can be asked for, ``marrow_tissue`` what lies where,
``marrow_stain`` how it looks, ``marrow`` any rows of a slide, ``marrow_writing`` files.
"""

from engine.phantoms.cine import CineFrame, CineOptions, draw_cine_frame, make_heart
from engine.phantoms.cine_files import write_cine
from engine.phantoms.discs import DiscImage, draw_disc_image
from engine.phantoms.options import DiscOptions
from engine.phantoms.placing import Placement
from engine.phantoms.scoring import Score, match_circles, merge_scores
from engine.phantoms.writing import write_discs

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
