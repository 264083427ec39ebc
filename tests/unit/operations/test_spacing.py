"""What is tried on one image has the spacing that a run gives it; tables and status say it."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import engine
from engine.operations.base import Image

UM = 2.0


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
