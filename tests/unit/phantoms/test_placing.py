import numpy as np
import pytest

from engine.errors import ParameterError
from engine.phantoms.discs.placement import Placement, place_discs


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_separate_disc_that_just_fits_has_one_place() -> None:
    # 10 px of disc and 4 px of gap to each side of the middle of 28 px.
    centres = place_discs(rng(), (28, 28), np.array([10.0]), Placement.SEPARATE)
    np.testing.assert_array_equal(centres, [(13.5, 13.5)])
    with pytest.raises(ParameterError, match="discs"):
        place_discs(rng(), (28, 27), np.array([10.0]), Placement.SEPARATE)


def test_adding_centres_keep_from_the_border() -> None:
    centres = place_discs(rng(), (1024, 2048), np.full(400, 2.0), Placement.ADDING)
    low, high = centres.min(axis=0), centres.max(axis=0)
    assert (low >= (100, 200)).all()
    assert (high <= (924, 1848)).all()
    np.testing.assert_allclose(low, (100, 200), atol=20)
    np.testing.assert_allclose(high, (924, 1848), atol=20)


def test_covering_centres_lie_anywhere_in_the_plane() -> None:
    centres = place_discs(rng(), (20, 50), np.full(2000, 9.0), Placement.COVERING)
    np.testing.assert_allclose(centres.min(axis=0), -0.5, atol=0.2)
    np.testing.assert_allclose(centres.max(axis=0), (19.5, 49.5), atol=0.2)


@pytest.mark.parametrize("placement", Placement)
def test_no_discs_need_no_room(placement: Placement) -> None:
    assert place_discs(rng(), (4, 4), np.empty(0), placement).shape == (0, 2)
