"""Made images of which everything is known, and how to judge what was found in them.

``discs`` says what can be asked for and draws an image by its number, ``drawing`` turns shapes
into pixels, ``placing`` lays discs out, ``writing`` makes files and the table of truth,
``scoring`` compares found circles with true ones.
"""

from engine.phantoms.discs import DiscImage, DiscOptions, draw_disc_image
from engine.phantoms.placing import Placement
from engine.phantoms.scoring import Score, match_circles, merge_scores
from engine.phantoms.writing import write_discs

__all__ = [
    "DiscImage",
    "DiscOptions",
    "Placement",
    "Score",
    "draw_disc_image",
    "match_circles",
    "merge_scores",
    "write_discs",
]
