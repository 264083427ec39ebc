"""Which images get a picture, and which are unusual."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pages.rendering import render
from engine.qc.outliers import (
    EVERY,
    MOST_FAILED,
    MOST_UNUSUAL,
    SAMPLE,
    find_extremes,
    sample,
    select_pictures,
)
from engine.qc.page.histograms import chart, number, ticks
from engine.qc.statistics import Histogram, QcStatistics, nice_edges, whole_edges


def facts_of(images, *, failed=(), missing=(), experiments=4, seed=0, **odd):
    """Facts of made-up images, whose count is 30 or so, and a radius; ``odd`` sets single ones."""
    random = np.random.default_rng(seed)
    status = np.full(images, "done", object)
    status[list(failed)] = "failed"
    status[list(missing)] = "missing"
    experiment = np.arange(images) % experiments
    measures = {
        "count": random.integers(28, 33, images).astype(float),
        "radius_px": random.normal(20, 0.5, images),
    }
    for name, values in odd.items():
        for image, value in values.items():
            measures[name][image] = value
    for values in measures.values():
        values[status != "done"] = np.nan
    names = pa.chunked_array([[f"r/{n:07d}.png" for n in range(images)]])
    return QcStatistics(
        pa.table({"image_id": names, "name": names}),
        status,
        ("s0", "s1"),
        experiment % 2,
        tuple((f"d{n}", f"s{n % 2}", "e") for n in range(experiments)),
        experiment,
        measures,
        30 * images,
    )


def test_up_to_a_thousand_images_all_are_shown():
    facts = facts_of(EVERY + 3, missing=(5, 6, 7), failed=(8,))
    chosen = select_pictures(facts, find_extremes(facts))
    assert chosen.tolist() == [n for n in range(EVERY + 3) if n not in (5, 6, 7)]


def test_of_more_images_a_choice_is_shown():
    failed = (17, 4000)
    facts = facts_of(5000, failed=failed, experiments=10, radius_px={77: 31.0, 78: 9.0})
    extremes = find_extremes(facts)
    chosen = set(select_pictures(facts, extremes).tolist())
    assert {*failed, 77, 78} <= chosen
    assert {pair.image for ends in extremes.ends.values() for pair in ends} <= chosen
    per_experiment = np.bincount(facts.experiment[sorted(chosen)])
    assert (per_experiment >= SAMPLE).all()
    assert len(chosen) <= 10 * SAMPLE + len(failed) + extremes.count + 4
    assert len(select_pictures(facts, extremes, all_images=True)) == 5000
    many = facts_of(5000, failed=range(2000))
    assert (many.status[select_pictures(many, find_extremes(many))] == "failed").sum() <= (
        MOST_FAILED + 4 * SAMPLE
    )


@settings(deadline=None, max_examples=30)
@given(
    images=st.integers(1, 400),
    more=st.integers(1, 400),
    experiments=st.integers(1, 9),
    size=st.integers(1, 15),
)
def test_a_sample_is_even_and_hardly_changes_as_the_cohort_grows(images, more, experiments, size):
    before, after = (facts_of(n, experiments=experiments) for n in (images, images + more))
    first, second = sample(before, size), sample(after, size)
    for facts, found in ((before, first), (after, second)):
        there = np.bincount(facts.experiment, minlength=experiments)
        taken = np.bincount(facts.experiment[found], minlength=experiments)
        assert np.array_equal(taken, np.minimum(there, size))
    # Old images only give way to new ones.
    kept_old = set(second[second < images].tolist())
    assert kept_old <= set(first.tolist())


def test_what_is_unusual_is_told_with_what_makes_it_so():
    facts = facts_of(200, count={10: 12, 11: 29}, radius_px={10: 26.0, 50: 14.0})
    extremes = find_extremes(facts)
    assert set(extremes.unusual) == {10, 50}
    assert extremes.count == 2
    found = {extreme.measure: extreme for extreme in extremes.unusual[10]}
    assert {name: extreme.value for name, extreme in found.items()} == {
        "count": 12.0,
        "radius_px": 26.0,
    }
    assert found["count"].median == pytest.approx(30, abs=1)
    assert found["radius_px"].median == pytest.approx(20, abs=0.2)
    assert found["count"].distance < 0 < found["radius_px"].distance
    low, high = extremes.ends["radius_px"]
    assert (low.image, high.image) == (50, 10)
    assert find_extremes(facts_of(3)).unusual == {}  # too few to tell
    crowd = facts_of(400, radius_px=dict.fromkeys(range(0, 80, 2), 40.0))
    assert len(find_extremes(crowd).unusual) == MOST_UNUSUAL
    assert find_extremes(crowd).count == 40


def test_hardly_different_is_not_unusual():
    facts = facts_of(100)
    facts.measures["radius_px"][:] = 25.0
    facts.measures["radius_px"][3] = 25.4
    facts.measures["count"][:] = 30
    facts.measures["count"][4] = 31
    assert find_extremes(facts).unusual == {}


def test_no_image_at_all():
    for facts in (facts_of(0), facts_of(5, missing=range(5))):
        extremes = find_extremes(facts)
        assert (extremes.count, dict(extremes.ends)) == (0, {})
        assert select_pictures(facts, extremes).tolist() == []


@settings(deadline=None)
@given(low=st.floats(-1e6, 1e6), span=st.floats(0, 1e6, allow_subnormal=False), whole=st.booleans())
def test_edges_hold_the_range_and_are_few(low, span, whole):
    high = low + span
    if whole:
        low, high = float(round(abs(low))), float(round(abs(low)) + round(span))
    edges = (whole_edges if whole else nice_edges)(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert edges[0] <= low + slack
    assert edges[-1] >= high - slack
    assert 1 <= len(edges) - 1 <= 60
    assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e300, 1e300), (1e200, 3e300), (-1e308, 1e308), (1e16, 1e16 + 2), (0, 5e-324)],
)
def test_any_floats_have_edges_and_ticks(low, high):
    edges = nice_edges(low, high)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert 2 <= len(ticks(edges[0], edges[-1])) <= 6


def test_a_chart_says_what_it_counts_and_in_which_unit():
    edges = nice_edges(10, 60)
    counts = np.ones((12, len(edges) - 1), np.int64) * np.arange(1, 13)[:, None]
    histogram = Histogram("radius_px", edges, counts, np.full(12, 33.3))
    names = tuple(f"<s{n}>" for n in range(12))
    made = chart(histogram, names, "radius, px", "circles")
    svg = render("qc/page/chart.svg.jinja", chart=made, number=number)
    assert svg.count('class="bars"') == 8
    assert "5 other subjects" in svg
    assert "radius, px" in svg
    assert "&lt;s11&gt;" in svg
    assert "<s11>" not in svg
    assert all(10 <= tick <= 62 for tick in ticks(10, 62))
    empty = Histogram("radius_px", edges, counts * 0, np.full(12, np.nan))
    assert chart(empty, names, "radius, px", "circles") is None
