"""Synthetic images match their truth for any options; scores are additive."""

import math
from itertools import combinations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.phantoms import (
    DiscImage,
    DiscOptions,
    Placement,
    draw_disc_image,
    match_circles,
    merge_scores,
)
from engine.phantoms.discs.placement import GAP_PX, SPACING_RADII

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32)
numbers = st.integers(0, 11)
placements = st.sampled_from(Placement)


def small(placement: Placement, seed: int, **more: object) -> DiscOptions:
    return DiscOptions(
        size=(160, 208), placement=placement, discs=(1, 5), radius_px=(8, 15), seed=seed, **more
    )  # type: ignore[arg-type]


def distances(image: DiscImage) -> list[np.ndarray]:
    y, x = np.mgrid[: image.pixels.shape[0], : image.pixels.shape[1]]
    return [np.hypot(y - cy, x - cx) for cy, cx, _ in image.circles]


@few
@given(placements, seeds, numbers)
def test_pixels_have_the_grey_values_of_truth(placement: Placement, seed: int, number: int) -> None:
    """Rebuilt from truth alone, the image is the same but for mixed pixels at the edges."""
    image = draw_disc_image(small(placement, seed), number)
    expected = np.full(image.pixels.shape, 0.0 if placement is Placement.ADDING else 51.0)
    sure = np.ones(image.pixels.shape, bool)
    for distance, (_, _, radius), grey in zip(
        distances(image), image.circles, image.grey, strict=True
    ):
        inside = distance <= radius
        if placement is Placement.ADDING:
            expected[inside] += grey
        else:
            expected[inside] = grey
            sure &= np.abs(distance - radius) > 1
    expected = np.rint(np.minimum(expected, 255))
    np.testing.assert_array_equal(image.pixels[sure], expected[sure])


@few
@given(seeds, numbers)
def test_separate_discs_are_whole_and_apart(seed: int, number: int) -> None:
    image = draw_disc_image(small(Placement.SEPARATE, seed), number)
    for a, b in combinations(image.circles, 2):
        assert math.hypot(*(a - b)[:2]) >= a[2] + b[2] + GAP_PX
    for y, x, r in image.circles:
        assert min(y, x) + 0.5 - r >= GAP_PX - 1e-9
        assert min(160 - 0.5 - y, 208 - 0.5 - x) - r >= GAP_PX - 1e-9
    assert (image.visible_edge == 1).all()


@few
@given(seeds, numbers)
def test_adding_discs_keep_the_labs_distance(seed: int, number: int) -> None:
    image = draw_disc_image(small(Placement.ADDING, seed), number)
    for a, b in combinations(image.circles, 2):
        assert math.hypot(*(a - b)[:2]) >= SPACING_RADII * max(a[2], b[2])


@few
@given(placements, seeds)
def test_image_follows_from_seed_and_number_alone(placement: Placement, seed: int) -> None:
    options = small(placement, seed, noise=0.03, blur_px=1.0, uneven=0.2, distractors=3)
    larger = small(placement, seed, noise=0.03, blur_px=1.0, uneven=0.2, distractors=3, images=500)
    forwards = [draw_disc_image(options, number) for number in (0, 1, 5)]
    backwards = [draw_disc_image(larger, number) for number in (5, 1, 0)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert a.path == b.path
        for field in ("pixels", "circles", "grey", "visible_edge"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert not np.array_equal(forwards[0].pixels, forwards[1].pixels)
    other = draw_disc_image(small(placement, seed + 1), 0)
    assert not np.array_equal(forwards[0].circles, other.circles)


@few
@given(st.sampled_from([Placement.ADDING, Placement.COVERING]), seeds, numbers)
def test_visible_edge_agrees_with_the_pixels(placement: Placement, seed: int, number: int) -> None:
    """What is seen 1.5 px to each side of a circumference is about what is said to be visible."""
    options = (
        DiscOptions(
            size=256,
            placement=placement,
            discs=(8, 8),
            radius_px=(20, 40),
            grey=(0.3, 0.9),
            antialias=False,
            seed=seed,
        )
        if placement is Placement.COVERING
        else DiscOptions(size=512, discs=(12, 12), radius_px=(20, 40), grey=(0.3, 0.9), seed=seed)
    )
    image = draw_disc_image(options, number)
    padded = np.pad(image.pixels.astype(int), 1, mode="edge")
    height, width = image.pixels.shape
    angle = np.arange(720) * math.pi / 360
    for (cy, cx, r), said in zip(image.circles, image.visible_edge, strict=True):
        sides = []
        for radius in (r - 1.5, r + 1.5):
            y = np.clip(np.rint(cy + radius * np.sin(angle)), -1, height).astype(int) + 1
            x = np.clip(np.rint(cx + radius * np.cos(angle)), -1, width).astype(int) + 1
            sides.append(padded[y, x])
        y, x = cy + r * np.sin(angle), cx + r * np.cos(angle)
        in_plane = (y >= -0.5) & (y < height - 0.5) & (x >= -0.5) & (x < width - 0.5)
        seen = (in_plane & (np.abs(sides[0] - sides[1]) >= 10)).mean()
        # Within 1.5 px of another edge the pixels tell of that one too.
        assert abs(seen - said) < 0.25


circles = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(1, 10)), max_size=8)


@given(circles)
def test_truth_itself_scores_one(truth: list[tuple[float, float, float]]) -> None:
    score = match_circles(truth, truth)
    assert score.f1 == 1
    assert score.true_positives == len(truth)
    assert not truth or score.mean_centre_error_px == score.mean_radius_error_px == 0


@given(circles, circles)
def test_score_is_symmetric_and_one_to_one(
    truth: list[tuple[float, float, float]], found: list[tuple[float, float, float]]
) -> None:
    there, back = match_circles(truth, found), match_circles(found, truth)
    assert there.true_positives == back.true_positives
    assert (there.false_positives, there.false_negatives) == (
        back.false_negatives,
        back.false_positives,
    )
    assert there.f1 == back.f1
    assert there.true_positives + there.false_negatives == len(truth)
    assert there.true_positives + there.false_positives == len(found)
    assert len({p.truth for p in there.pairs}) == len({p.found for p in there.pairs})
    for pair in there.pairs:
        assert pair.centre_error_px <= 3
        assert abs(pair.radius_error_px) <= 3


@given(circles, circles, st.data())
def test_ignoring_never_adds_an_error(
    truth: list[tuple[float, float, float]],
    found: list[tuple[float, float, float]],
    data: st.DataObject,
) -> None:
    flags = st.lists(st.booleans(), min_size=len(truth), max_size=len(truth))
    ignore = data.draw(flags)
    strict, mild = match_circles(truth, found), match_circles(truth, found, ignore=ignore)
    assert mild.false_negatives <= strict.false_negatives
    assert mild.false_positives <= strict.false_positives
    assert not any(ignore[pair.truth] for pair in mild.pairs)


@given(st.lists(st.tuples(circles, circles), max_size=6), st.integers(0, 6))
def test_merging_is_associative(
    images: list[tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]],
    cut: int,
) -> None:
    scores = [match_circles(truth, found) for truth, found in images]
    whole = merge_scores(scores)
    assert merge_scores([merge_scores(scores[:cut]), merge_scores(scores[cut:])]) == whole
    turned = merge_scores(scores[::-1])
    assert turned.f1 == whole.f1
    assert repr(turned.mean_centre_error_px) == repr(whole.mean_centre_error_px)  # nan is nan
