"""Sizes in pixels of several sizes are neither averaged nor compared with one another."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import engine
from engine.operations.spacings import group_spacings
from engine.qc.outliers import find_extremes
from engine.qc.statistics import read_facts
from engine.store.catalog.tables import read_images


def write(path, radius_px, spacing_um=None, seed=0):
    """Write an image of one disc."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:90, :90]
    plane = np.random.default_rng(seed).normal(60, 2, y.shape)
    plane += 120 * np.clip(radius_px - np.hypot(y - 44, x - 46) + 0.5, 0, 1)
    said = {}
    if spacing_um is not None:
        said = {"resolution": (1e4 / spacing_um,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.clip(plane, 0, 255).astype(np.uint8), **said)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, client):
    """Cells of 10 um: s1 has both spacings, ten fine and two coarse images, and one is larger."""
    place = tmp_path_factory.mktemp("mixed")
    day = place / "in/2026-01-02"
    for n in range(10):
        radius = 20.0 if n == 0 else 16.0 if n == 1 else 10.0
        coarse = n == 0 or n > 1
        write(day / f"s1/{'both' if n < 8 else 'one'}/i{n}.tif", radius if n < 2 else 10.0,
              0.5 if n == 0 else 1.0 if coarse else 0.625, n)  # fmt: skip
    write(day / "s2/unknown/a.tif", 12.0, None, 21)
    write(day / "s2/some/a.tif", 12.0, None, 22)
    write(day / "s2/some/b.tif", 10.0, 1.0, 23)
    write(day / "s2/alike/a.tif", 10.0, 1.0, 24)
    write(day / "s2/alike/b.tif", 10.0, 1.004, 25)
    made = engine.create(place / "cohort")
    made.ingest(place / "in", client=client)
    made.run(engine.circles(radius_px=(6, 30), min_support=0.7, polarity="bright"), client=client)
    return made


def test_means_of_radii_are_in_micrometres_where_spacings_are_mixed(cohort):
    table = cohort.table("circles_by_experiment").set_index("experiment")
    objects = cohort.table("circles")
    for experiment, rows in objects.groupby("experiment"):
        row = table.loc[experiment]
        assert row["radius_um_mean"] == pytest.approx(rows["radius_um"].mean(), nan_ok=True)
        if experiment in ("both", "some"):
            assert pd.isna(row["radius_px_mean"])
            assert pd.isna(row["radius_px_sd"])
        else:
            assert row["radius_px_mean"] == pytest.approx(rows["radius_px"].mean())
        assert row["mean_intensity_mean"] == pytest.approx(rows["mean_intensity"].mean())
    assert table.loc["both", "radius_um_mean"] == pytest.approx(10, abs=0.2)
    assert pd.isna(table.loc["unknown", "radius_um_mean"])
    by_image = cohort.table("circles_by_image")
    assert by_image["radius_px_mean"].notna().all()


def test_means_are_the_same_for_slices_of_any_size(cohort, client, monkeypatch):
    whole = cohort.table("circles_by_experiment")
    for size in (1, 3):
        monkeypatch.setattr("engine.tables.driver.SLICE_IMAGES", size)
        for path in Path(cohort.store.url.removeprefix("file://"), "tables").glob(
            "circles_by_exp*"
        ):
            path.unlink()
        cohort.run("circles", client=client)
        pd.testing.assert_frame_equal(cohort.table("circles_by_experiment"), whole)


def test_an_image_of_another_spacing_is_no_outlier(cohort, client):
    operation = cohort.operation("circles")
    facts = read_facts(cohort.store, operation, read_images(cohort.store)[1])
    assert facts.mixed
    assert "s1 at 1 x 1 um" in facts.groups
    names = np.array(facts.columns["name"].to_pylist())
    unusual = {str(names[n]) for n in find_extremes(facts).unusual}
    assert not unusual & {"i0", "i1"}
    report = cohort.qc("circles", client=client)
    page = Path(report.page).read_text()
    assert "of the same pixel spacing" in page
    assert "By subject and pixel spacing" in page
    assert "s1 at 0.5 x 0.5 um" in page


def test_within_one_spacing_outliers_are_found_and_the_page_says_nothing_of_it(tmp_path, client):
    for n in range(8):
        write(tmp_path / f"in/2026/s1/e/i{n}.tif", 20.0 if n == 3 else 10.0, 1.0 + n / 10_000, n)
    made = engine.create(tmp_path / "cohort")
    made.ingest(tmp_path / "in", client=client)
    made.run(engine.circles(radius_px=(6, 30), min_support=0.7, polarity="bright"), client=client)
    facts = read_facts(made.store, made.operation("circles"), read_images(made.store)[1])
    assert not facts.mixed
    names = facts.columns["name"].to_pylist()
    assert "i3" in {names[n] for n in find_extremes(facts).unusual}
    report = made.qc("circles", client=client)
    assert "pixel spacing" not in Path(report.page).read_text()


def test_spacings_that_are_alike_are_one():
    groups, number = group_spacings([(1.0, 1.0), (1.009, 1.0), (1.0, 1.2), None, (0.5, 0.5), None])
    assert groups == [(0.5, 0.5), (1.0, 1.0), (1.0, 1.2), None]
    assert number.tolist() == [1, 1, 2, 3, 0, 3]
    assert group_spacings([])[0] == []
