import math

import numpy as np
import pytest

from engine.errors import ParameterError
from engine.phantoms import Score, match_circles, merge_scores
from engine.phantoms.discs.scoring import Pair


def test_errors_of_pairs() -> None:
    score = match_circles([(10, 10, 5), (50, 50, 8)], [(53 - 3, 52, 7), (10, 11, 5.5)])
    assert score.pairs == (Pair(0, 1, 1.0, 0.5), Pair(1, 0, 2.0, -1.0))
    assert score.mean_centre_error_px == 1.5
    assert score.mean_radius_error_px == 0.75
    assert score.radius_bias_px == -0.25
    assert (score.precision, score.recall, score.f1) == (1, 1, 1)


def test_each_circle_counts_once() -> None:
    score = match_circles([(10, 10, 5)], [(10, 10, 5), (10, 11, 5), (11, 10, 5)])
    assert (score.true_positives, score.false_positives, score.false_negatives) == (1, 2, 0)
    assert score.pairs[0].found == 0


def test_most_pairs_come_before_nearest_pairs() -> None:
    # The first true circle is nearest to the only found one that the second can have.
    score = match_circles([(0, 0, 5), (0, 3, 5)], [(0, 1, 5), (0, -2.5, 5)])
    assert [(pair.truth, pair.found) for pair in score.pairs] == [(0, 1), (1, 0)]


def test_tolerance_is_inclusive_for_centre_and_radius() -> None:
    assert match_circles([(0, 0, 5)], [(0, 3, 8)]).true_positives == 1
    assert match_circles([(0, 0, 5)], [(0, 3.01, 5)]).true_positives == 0
    assert match_circles([(0, 0, 5)], [(0, 0, 8.01)]).true_positives == 0
    assert match_circles([(0, 0, 5)], [(0, 0, 8.01)], tolerance_px=4).true_positives == 1


def test_ignored_counts_neither_way() -> None:
    truth = [(10, 10, 5), (50, 50, 5)]
    missed = match_circles(truth, [(10, 10, 5)], ignore=[False, True])
    assert (missed.true_positives, missed.false_positives, missed.false_negatives) == (1, 0, 0)
    seen = match_circles(truth, [(10, 10, 5), (50, 51, 5), (80, 80, 5)], ignore=[False, True])
    assert (seen.true_positives, seen.false_positives, seen.false_negatives) == (1, 1, 0)
    # A true circle that counts has the first claim.
    both = match_circles([(10, 10, 5), (10, 11, 5)], [(10, 11, 5)], ignore=[False, True])
    assert (both.true_positives, both.false_positives, both.false_negatives) == (1, 0, 0)


def test_ignored_circle_keeps_its_own_found_one() -> None:
    # The nearest found circle could be either; the other one can only be the one that counts.
    score = match_circles([(0, 0, 5), (0, 3, 5)], [(0, 1, 5), (0, -2, 5)], ignore=[False, True])
    assert score == Score(pairs=(Pair(0, 1, 2.0, 0.0),))


def test_nothing() -> None:
    empty = match_circles([], np.empty((0, 5)))
    assert empty == Score() == merge_scores([])
    assert empty.f1 == 1
    assert math.isnan(empty.mean_centre_error_px)
    assert match_circles([], [(1, 1, 1)]).f1 == 0
    assert match_circles([(1, 1, 1)], []).f1 == 0


def test_further_columns_are_not_read() -> None:
    assert match_circles([(1, 1, 1)], [(1, 1, 1, math.nan)]).f1 == 1


@pytest.mark.parametrize(
    ("parameter", "arguments"),
    [
        ("truth", ([(1, 2)], [])),
        ("truth", ([1, 2, 3], [])),
        ("found", ([], [(1, 2, math.nan)])),
        ("tolerance_px", ([], [], 0.0)),
        ("tolerance_px", ([], [], math.nan)),
        ("ignore", ([(1, 2, 3)], [], 3.0, [True, False])),
    ],
)
def test_bad_arguments_are_refused_by_name(parameter: str, arguments: tuple) -> None:
    with pytest.raises(ParameterError) as caught:
        match_circles(*arguments)
    assert caught.value.args[0] == parameter
