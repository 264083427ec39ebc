"""Made images of which everything is known, and how to judge what was found in them.

``options`` says what can be asked for, ``discs`` draws an image by its number, ``placing`` lays
the discs out, ``drawing`` turns shapes into pixels, ``writing`` makes files and the table of
truth, ``scoring`` compares found circles with true ones.
"""

from engine.phantoms.discs import DiscImage, draw_disc_image
from engine.phantoms.options import DiscOptions
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
