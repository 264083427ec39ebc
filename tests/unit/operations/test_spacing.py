"""What is tried on one image has the spacing that a run gives it; tables and status say it."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr

import engine
from engine.errors import UsageError
from engine.operations.base import Image

UM = 2.0

KEY = "fb8459eb97d3e9be85a77576cfc5c334"
"""The key of `engine.circles(radius_px=(10, 60))` as version 3 first had it."""


def labelled(pixels, spacing=(UM, UM)):
    coords = {
        name: (name, np.arange(size) * side, {"units": "micrometer"})
        for name, size, side in zip(("y", "x"), pixels.shape[-2:], spacing, strict=True)
    }
    return xr.DataArray(
        pixels, dims=("c", "y", "x")[-pixels.ndim :], coords=coords, attrs={"source": "a/b.png"}
    )


@pytest.mark.parametrize(
    ("change", "spacing"),
    [
        (lambda a: a, (2.0, 3.0)),
        (lambda a: a.isel(y=slice(4, 20)), (2.0, 3.0)),
        (lambda a: a.isel(c=0)[2:, 5:], (2.0, 3.0)),
        (lambda a: a[:, ::2, ::3], (4.0, 9.0)),
        (lambda a: a.transpose("y", "x", "c"), (2.0, 3.0)),
        (lambda a: a * 2, (2.0, 3.0)),
        (lambda a: a.drop_vars(["y", "x"]), None),
        (lambda a: a.to_numpy(), None),
    ],
)
def test_an_array_carries_its_spacing(change, spacing):
    pixels = np.zeros((2, 30, 40), np.uint8)
    image = Image.of(change(labelled(pixels, (2.0, 3.0))))
    assert image.spacing_um == (None if spacing is None else pytest.approx(spacing))
    assert image.pixels.shape[0] in (1, 2)


def disc(spacing):
    y, x = np.mgrid[:64, :96]
    plane = np.where((y - 30) ** 2 + (x - 50) ** 2 <= 12**2, 200, 50).astype(np.uint8)
    return labelled(plane, spacing)


def test_circles_have_a_radius_in_micrometres_where_the_spacing_is_one():
    operation = engine.circles(radius_px=(8, 20))
    row = operation(disc((UM, UM * 1.001))).iloc[0]
    assert row.radius_um == pytest.approx(UM * row.radius_px, rel=0.01)
    assert row.spacing_um == pytest.approx(UM, rel=0.01)
    for unknown in (disc((2.0, 3.0)), disc((2.0, 2.0)).to_numpy()):
        assert operation(unknown)[["radius_um", "spacing_um"]].isna().all(axis=None)


def test_a_run_an_image_and_a_table_agree(tmp_path, client):
    from PIL import Image as Picture

    for name, per_m in (("s1", 5e5), ("s2", 2.5e5), ("s3", None)):
        (tmp_path / "in" / name).mkdir(parents=True)
        dpi = {} if per_m is None else {"dpi": (per_m * 0.0254,) * 2}
        Picture.fromarray(disc((1, 1)).to_numpy()).save(tmp_path / "in" / name / "a.png", **dpi)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "in", client=client)
    cohort.run(engine.circles(radius_px=(8, 20)), client=client)
    table = pd.read_parquet(tmp_path / "cohort/tables/circles.parquet")
    spacing = dict(zip(table["source"].str.split("/").str[-2], table["spacing_um"], strict=True))
    assert spacing["s1"] == pytest.approx(2.0, rel=1e-3)
    assert spacing["s2"] == pytest.approx(4.0, rel=1e-3)
    assert np.isnan(spacing["s3"])
    operation = engine.circles(radius_px=(8, 20))
    for image in cohort.images():
        tried = operation(image).iloc[0]
        of_run = table[table["image_id"] == image.attrs["image_id"]].iloc[0]
        assert tried.radius_um == pytest.approx(of_run.radius_um, nan_ok=True)
    status = cohort.status()
    assert len(status.spacings) == 3
    assert status.as_json()["mixed_spacings"] is True
    assert {row["images"] for row in status.as_json()["spacings_um"]} == {1}


DISCS_UM = ((60.0, 70.0, 9.0), (150.0, 60.0, 14.0), (110.0, 150.0, 18.0), (190.0, 190.0, 11.0))
"""y, x and radius of discs that lie apart, micrometres."""


def scene(spacing, shape_um=(240.0, 240.0), discs=DISCS_UM):
    """Draw discs as pixels of a size show them: with the share of each that a disc covers."""
    height, width = (round(side / spacing) for side in shape_um)
    y, x = np.mgrid[:height, :width]
    plane = np.full((height, width), 60.0)
    for at_y, at_x, radius in discs:
        distance = np.hypot(y - at_y / spacing, x - at_x / spacing)
        plane += 120 * np.clip(radius / spacing - distance + 0.5, 0, 1)
    noise = np.random.default_rng(7).normal(0, 2, plane.shape)
    return np.clip(plane + noise, 0, 255).astype(np.uint8)


def write(path, pixels, spacing=None):
    sides = (spacing, spacing) if isinstance(spacing, float) else spacing
    said = {} if sides is None else {"resolution": (1e4 / sides[1], 1e4 / sides[0]),
                                     "resolutionunit": "CENTIMETER"}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(256, 256), **said)


def settle(path, lines=""):
    cohort = engine.create(path)
    with (path / "cohort.toml").open("a") as toml:
        toml.write(lines)
    return cohort


@pytest.fixture(scope="module")
def of_three(tmp_path_factory, client):
    """One scene in pixels of three sizes, one of no known size and one of sides unlike."""
    place = tmp_path_factory.mktemp("three")
    for name, spacing in (("a", 0.25), ("b", 0.5), ("c", 1.0)):
        write(place / f"in/{name}.tif", scene(spacing), spacing)
    write(place / "in/unknown.tif", scene(0.75))
    write(place / "in/unlike.tif", scene(0.8), (0.8, 0.9))
    write(place / "in/coarse.tif", scene(0.9), 7.0)
    cohort = settle(place / "cohort")
    cohort.ingest(place / "in", client=client)
    return cohort


@pytest.mark.parametrize("polarity", ["any", "bright"])
def test_radii_in_micrometres_find_the_same_circles_in_pixels_of_any_size(
    of_three, client, polarity
):
    operation = engine.circles(radius_um=(6, 24), polarity=polarity)
    report = of_three.run(operation, client=client)
    suffix = f"@{report.key[:8]}" if report.trial else ""
    table = of_three.table(f"circles_by_image{suffix}").set_index("name")
    assert table.reason.dropna().to_dict() == {
        "unknown": "spacing_needed", "unlike": "spacing_needed", "coarse": "radius_out_of_range",
    }  # fmt: skip
    for image in of_three.images("name in ('a', 'b', 'c')"):
        tried = operation(image)
        scale = image.attrs["spacing_um"][0]
        found = np.stack([tried.y * scale, tried.x * scale, tried.radius_um], axis=1)
        assert found == pytest.approx(np.array(sorted(DISCS_UM)), abs=0.5 * scale), scale


def test_a_run_in_micrometres_is_declared_and_planned(tmp_path, client):
    write(tmp_path / "in/a.tif", scene(0.5), 0.5)
    cohort = settle(tmp_path / "cohort")
    cohort.ingest(tmp_path / "in", client=client)
    cohort.run(engine.circles(radius_px=(12, 48)), client=client)
    in_um = cohort.operation("circles", radius_um=(6, 24))
    assert in_um.radius_px is None  # what is given replaces what is declared instead of it
    plan = cohort.plan(in_um)
    assert plan.causes == {"parameters": 1}
    assert plan.changes == {
        "radius_px": ([12.0, 48.0], None), "radius_um": (None, [6.0, 24.0]),
    }  # fmt: skip
    cohort.run(in_um, client=client, declare=True)
    assert engine.open(tmp_path / "cohort").operation("circles") == in_um
    assert cohort.plan(cohort.operation("circles")).settled == {"done": 1}
    assert cohort.operation("circles", radius_px=(12, 48)).radius_um is None
    assert len(cohort.table("circles")) == len(DISCS_UM)


def test_blocks_of_giants_have_the_context_that_their_spacing_asks_for(tmp_path, client):
    """Circles on the border of blocks are those of the whole image, in pixels of two sizes."""
    blocks = [(1022.0, 1020.0, 20.0), (1026.0, 300.0, 12.0), (500.0, 1025.0, 9.0)]
    for name, spacing in (("fine", 0.5), ("finer", 0.4)):
        write(tmp_path / f"in/{name}.tif", scene(spacing, (1060.0, 1060.0), blocks), spacing)
    cohort = settle(tmp_path / "cohort", "\n[limits]\ngiant_bytes = 1000000\n")
    cohort.ingest(tmp_path / "in", client=client)
    operation = engine.circles(radius_um=(6, 24))
    cohort.run(operation, client=client)
    assert operation.halo_of((0.4, 0.4)) > operation.halo_of((0.5, 0.5)) > 0
    table = cohort.table("circles")
    for image in cohort.images():
        tried = operation(image)
        of_run = table[table["image_id"] == image.attrs["image_id"]]
        assert len(tried) == len(blocks)
        columns = ["y", "x", "radius_px", "radius_um", "support"]
        pd.testing.assert_frame_equal(of_run[columns].reset_index(drop=True), tried[columns])


def test_radii_in_micrometres_are_refused_where_they_say_nothing(tmp_path):
    operation = engine.circles(radius_um=(4, 12))
    for array in (np.zeros((40, 50), np.uint8), disc((2.0, 3.0))):
        with pytest.raises(UsageError, match=r"cohort\.images\(\)"):
            operation(array)
    with pytest.raises(UsageError, match="both given"):
        engine.circles(radius_um=(4, 12), radius_px=(4, 12))
    with pytest.raises(UsageError, match="radius_um"):
        engine.circles(radius_um=(12, 4))
    with pytest.raises(UsageError, match="radius_um"):
        engine.circles(radius_um=(0, 4))
    with pytest.raises(UsageError, match="radius_px"):
        engine.circles(radius_px=None)
    settle(tmp_path / "cohort")
    asked = ["run", str(tmp_path / "cohort"), "circles", "--radius-px", "4:12"]
    asked = [sys.executable, "-m", "jobs.start", *asked, "--radius-um", "4:12"]
    given = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (given.returncode, "both given" in given.stderr) == (2, True), given.stderr


def test_keys_of_radii_in_pixels_are_those_that_they_were():
    """Results of cohorts that there are stay: this key is that of version 3 before radius_um."""
    operation = engine.circles(radius_px=(10, 60))
    assert [*operation.parameters] == [
        "radius_px", "polarity", "rim_width_px", "min_support", "channel",
    ]  # fmt: skip
    assert operation.key == KEY
    um = engine.circles(radius_um=(4, 12))
    assert (um.parameters["radius_px"], um.parameters["radius_um"]) == (None, [4.0, 12.0])
    assert um == pickle.loads(pickle.dumps(um)) == engine.circles(**um.parameters)
