"""ImageJ's calibration of values: a straight line becomes slope and intercept, the rest is said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.sources import Plane, open_source
from tests.support.images import catalog, grey, put

LINE = {"cf": 0, "c0": -12.5, "c1": 0.25, "vunit": "OD"}
SIGNED = {"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}


def imagej(pixels: NDArray[Any], more: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    text = "ImageJ=1.54f\n" + "".join(f"{name}={value}\n" for name, value in more.items())
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(out, pixels, description=text, metadata=None, **options)
    return out.getvalue()


def planes(content: bytes) -> tuple[Plane, ...]:
    with open_source(io.BytesIO(content), "a.tif") as source:
        return source.planes


@pytest.mark.parametrize(
    ("dtype", "more", "rescale", "findings"),
    [
        ("uint16", SIGNED, (1.0, -32768.0), ()),
        ("uint16", LINE, (0.25, -12.5), ()),
        ("uint8", LINE, (0.25, -12.5), ()),
        ("uint8", {**LINE, "c0": 12.5, "zeroclip": "true"}, (0.25, 12.5), ()),
        ("uint8", {**LINE, "zeroclip": "true"}, None, ("calibrated",)),
        ("uint8", {**LINE, "c0": 70.0, "c1": -0.25, "zeroclip": "true"}, (-0.25, 70.0), ()),
        # ImageJ adds 32768 to signed values as it reads them, and then applies the line.
        ("int16", SIGNED, None, ()),
        ("int16", {"cf": 0, "c0": -65536.0, "c1": 2.0}, (2.0, 0.0), ()),
        ("uint16", {"cf": 0, "c0": 0.0, "c1": 1.0}, None, ()),
        ("uint16", {"cf": 20}, None, ()),
        ("uint16", {}, None, ()),
        ("float32", LINE, None, ("calibrated",)),
        ("uint16", {"cf": 0, "c0": 4.0}, None, ("calibrated",)),
        ("uint16", {"cf": 0}, None, ("calibrated",)),
        ("uint16", {"cf": 0, "c0": "nan", "c1": 1.0}, None, ("rescale_invalid",)),
        ("uint16", {"cf": 0, "c0": "many", "c1": 1.0}, None, ("rescale_invalid",)),
        *(("uint8", {**LINE, "cf": cf}, None, ("calibrated",)) for cf in (*range(1, 14), 21, 22)),
    ],
)
def test_what_is_made_of_a_calibration(
    dtype: str, more: dict[str, Any], rescale: object, findings: tuple[str, ...]
) -> None:
    (plane,) = planes(imagej(grey(1, dtype=dtype), more))
    assert (plane.rescale, plane.findings) == (rescale, findings)


def test_the_line_holds_for_all_planes_and_for_no_colours() -> None:
    stack = imagej(grey(1, (3, 8, 9), "uint16"), {"images": 3, "slices": 3, **LINE})
    assert [plane.rescale for plane in planes(stack)] == [(0.25, -12.5)] * 3
    odd = imagej(grey(1, (3, 8, 9), "uint16"), {"images": 3, "slices": 2, **LINE})
    expected = ((0.25, -12.5), ("counts_differ",))
    assert [(p.rescale, p.findings) for p in planes(odd)] == [expected] * 3
    for pixels, options in (
        (grey(1, (8, 9, 3)), {"photometric": "rgb"}),
        (grey(1, (8, 9)), {"photometric": "miniswhite"}),
    ):
        (plane,) = planes(imagej(pixels, LINE, **options))
        assert (plane.rescale, plane.findings) == (None, ("calibrated",))


def test_images_and_batches_have_the_units_and_operations_the_line(
    tmp_path: Path, client: Client
) -> None:
    signed = (grey(1, dtype="int32") - 100).astype(np.int16)
    stored = (signed.astype(np.int32) + 32768).astype(np.uint16)
    source = tmp_path / "in"
    put(source / "signed.tif", stored, imagej=True, metadata=SIGNED)
    put(source / "plain.tif", stored, imagej=True)  # the same pixels, of another meaning
    put(source / "line.tif", grey(2), imagej=True, metadata=LINE)
    put(source / "curve.tif", grey(3), imagej=True, metadata={**LINE, "cf": 7})
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(source, client=client)
    assert (report.failed, dict(report.findings)) == (0, {"calibrated": 1})
    images = {image.attrs["image_id"]: image.values[0] for image in cohort.images()}
    np.testing.assert_array_equal(images["in/signed.tif"], signed)
    np.testing.assert_array_equal(images["in/plain.tif"], stored)
    np.testing.assert_array_equal(images["in/line.tif"], grey(2) * 0.25 - 12.5)
    np.testing.assert_array_equal(images["in/curve.tif"], grey(3))
    kept = {image.attrs["image_id"]: image.values[0] for image in cohort.images(stored=True)}
    np.testing.assert_array_equal(kept["in/signed.tif"], stored)
    for batch in cohort.batches(batch_size=1).numpy():
        for image_id, pixels in zip(batch["image_id"], batch["image"], strict=True):
            np.testing.assert_allclose(np.asarray(pixels)[0], images[image_id], rtol=1e-6)
    # Another line of the same pixels is taken, though nothing else has changed.
    assert catalog(cohort)["in/line.tif"]["rescale_slope"] == 0.25
    put(source / "line.tif", grey(2), imagej=True, metadata={**LINE, "c1": 0.5})
    report = cohort.ingest(source, client=client)
    assert (report.touched, report.failed) == (1, 0)
    image = cohort.images().by_id("in/line.tif")
    np.testing.assert_array_equal(image[0], grey(2) * 0.5 - 12.5)
