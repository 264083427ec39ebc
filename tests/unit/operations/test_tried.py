"""What is tried on one image is what a run gives: pixels, spacing, names and answers alike."""

import hashlib
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
import xarray as xr
from PIL import Image as Picture

import engine
from engine.errors import UsageError
from engine.operations.base import Image, Operation
from engine.operations.functions.attributes_read import reads_attributes
from tests.support.dicom import KEY, put_dicom

NAMED = ("image_id", "source", "date", "subject", "experiment", "name")


def disc(dtype=np.uint8):
    """A disc of 305 pixels on a noisy ground, which has 76.25 square micrometres at 0.5 um."""
    y, x = np.mgrid[:70, :90]
    plane = np.random.default_rng(5).normal(60, 3, y.shape)
    plane[(y - 33) ** 2 + (x - 41) ** 2 <= 9.9**2] += 120
    return np.clip(plane, 0, 255).astype(dtype)


def write_tiff(path, pixels, spacing_um=None, **given):
    path.parent.mkdir(parents=True, exist_ok=True)
    if spacing_um is not None:
        given |= {
            "resolution": (1e4 / spacing_um[1], 1e4 / spacing_um[0]),
            "resolutionunit": "CENTIMETER",
        }
    tifffile.imwrite(path, pixels, **given)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, client):
    """Images of many kinds; ``twin`` is one of another subject, with the pixels of ``even``."""
    place = tmp_path_factory.mktemp("tried")
    folder = place / "in" / "2026-01-02"
    write_tiff(folder / "s1/e1/even.tif", disc(), (0.5, 0.5))
    write_tiff(folder / "s2/e1/twin.tif", disc(), (0.5, 0.5))
    write_tiff(folder / "s1/e1/unlike.tif", disc(np.uint16) * 200, (0.3, 0.7))
    write_tiff(folder / "s1/e2/none.tif", disc())
    write_tiff(folder / "s1/e2/float.tif", disc(np.float32) / 7, (1 / 3, 1 / 3))
    stains = np.stack([disc(), disc()[::-1], disc()[:, ::-1]])
    (folder / "s2/e2").mkdir()
    said = {"axes": "CYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
    tifffile.imwrite(folder / "s2/e2/stains.ome.tif", stains, ome=True, metadata=said)
    Picture.fromarray(np.moveaxis(stains, 0, 2)).save(folder / "s2/e2/rgb.png", dpi=(50800, 50800))
    values = {"RescaleSlope": 0.1, "RescaleIntercept": -1024.3}
    put_dicom(place / "scans/ct.dcm", disc(np.int16) - 40, **values)
    made = engine.create(place / "cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHORT_PSEUDONYM_KEY", KEY)
        made.ingest(place / "in", place / "scans", client=client)
    assert len(made.images()) == 8
    return made


def digest_of(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def plain(image):
    return {"kind": f"{type(image).__name__} {image.dtype} {image.shape}", "seen": digest_of(image)}


def area(image: xr.DataArray):
    """The area of what is bright, in square micrometres where the spacing is known."""
    pixel = 1.0 if "y" not in image.coords else float(image.y[1]) * float(image.x[1])
    middle = (float(image.max()) + float(image.min())) / 2
    return {"area": float((image > middle).sum()) * pixel}


def everything(image: xr.DataArray):
    """All that a DataArray says; the names are in its attributes."""
    places = {n: digest_of(c.values) + str(c.attrs) for n, c in image.coords.items()}
    said = {name: str(image.attrs[name]) for name in NAMED}
    return {
        **said, "seen": digest_of(image.values), "kind": f"{image.dtype} {image.dims} {image.name}",
        "all": str(sorted(image.attrs.items(), key=str)), "places": str(places),
    }  # fmt: skip


def ask(function, columns):
    renamed = {f"its_{name}": kind for name, kind in columns.items()}

    def renaming(answer):
        return {f"its_{name}": value for name, value in answer.items()}

    def labelled(image: xr.DataArray):
        return renaming(function(image))

    def unlabelled(image):
        return renaming(function(image))

    chosen = unlabelled if function is plain else labelled
    return engine.from_function(chosen, name=function.__name__, schema=renamed)


TEXTS = dict.fromkeys((*NAMED, "seen", "kind", "all", "places"), str)

OPERATIONS = {
    "plain": lambda: ask(plain, {"kind": str, "seen": str}),
    "area": lambda: ask(area, {"area": float}),
    "everything": lambda: ask(everything, TEXTS),
    "circles": lambda: engine.circles(radius_px=(6, 20), channel=0),
    "circles_um": lambda: engine.circles(radius_um=(3, 12), channel=0),
    "segment": lambda: engine.segment(model="baseline"),
}


@pytest.mark.parametrize("asked", OPERATIONS)
def test_an_answer_that_is_tried_is_the_answer_of_a_run(cohort, client, asked):
    operation = OPERATIONS[asked]()
    report = cohort.run(operation, client=client)
    rows = cohort.table(report.tables[0])
    by_image = cohort.table(report.tables[1]).set_index("image_id")
    columns = [n for n in operation.object_schema.names if n in rows and n != "memory_peak_bytes"]
    answered = 0
    for image in cohort.images():
        image_id = image.attrs["image_id"]
        of_run = rows[rows["image_id"] == image_id][columns].reset_index(drop=True)
        if by_image.loc[image_id, "status"] == "failed":
            with pytest.raises((engine.ImageFailed, UsageError)):
                operation(image)
            continue
        answered += 1
        tried = operation(image)[columns]
        pd.testing.assert_frame_equal(tried, of_run, check_exact=True, check_dtype=False)
        pd.testing.assert_frame_equal(
            operation(cohort.images(stored=True).by_id(image_id)), operation(image)
        )
        if asked == "everything":
            direct = everything(cohort.images(stored=True).by_id(image_id))
            assert {f"its_{n}": v for n, v in direct.items()} == of_run.iloc[0].to_dict()
            assert of_run.iloc[0]["its_subject"] == image.attrs["subject"]
    assert answered == {"circles_um": 5, "segment": 1}.get(asked, 8)
    assert len(rows) >= 4


def test_an_area_that_is_tried_is_in_square_micrometres(cohort, client):
    """305 pixels are 76.25 square micrometres at 0.5 um, in a run and where it is tried."""
    operation = ask(area, {"area": float})
    (even,) = cohort.images("name == 'even'")
    (none,) = cohort.images("name == 'none'")
    assert operation(none)["its_area"].tolist() == [305.0]
    assert operation(even)["its_area"].tolist() == [76.25]
    report = cohort.run(operation, client=client)
    table = cohort.table(report.tables[0]).set_index("name")["its_area"]
    assert table[["none", "even", "twin"]].tolist() == [305.0, 76.25, 76.25]


class Looking(Operation):
    """Keeps what it is given, as a class that reads all there is."""

    name: ClassVar[str] = "looking"
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing", "rescale", "fields")
    object_schema: ClassVar[pa.Schema] = pa.schema([("n", pa.int64())])
    seen: ClassVar[list[Image]] = []

    def measure(self, image):
        self.seen.append(image)
        return {"n": [len(self.seen)]}


class Unnamed(Looking):
    """The same without the names of images."""

    name: ClassVar[str] = "unnamed"
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing", "rescale")
    seen: ClassVar[list[Image]] = []


@pytest.mark.parametrize(("kind", "calls"), [(Looking, 8), (Unnamed, 7)])
def test_a_class_sees_the_same_where_it_is_tried(cohort, client, kind, calls):
    kind.seen.clear()
    cohort.run(kind(), client=client)
    of_run = {image.source: image for image in kind.seen}
    assert len(of_run) == len(kind.seen) == calls  # equal ones once, unless their names are read
    for image in cohort.images():
        if image.attrs["source"] not in of_run:
            continue
        kind.seen.clear()
        kind()(image)
        (tried,), ran = kind.seen, of_run[image.attrs["source"]]
        assert tried.pixels.dtype == ran.pixels.dtype
        assert np.array_equal(tried.pixels, ran.pixels)
        for name in ("noise_sd", "spacing_um", "source", "rescale", "fields", "has_luminance"):
            assert getattr(tried, name) == getattr(ran, name), name
        assert bool(tried.fields) == (kind is Looking)


def test_images_that_are_equal_share_what_does_not_read_their_names(cohort):
    named, unnamed = ask(everything, TEXTS), ask(area, {"area": float})
    assert named.inputs == ("content", "spacing", "rescale", "fields")
    assert unnamed.inputs == ("content", "spacing")
    for function, items in ((_subject, 8), (_area, 7)):
        fresh = engine.from_function(function, name="fresh", schema={"a": float})
        assert len(cohort.plan(fresh).items) == items


def _area(image: xr.DataArray):
    return {"a": float(image.mean())}


def _subject(image: xr.DataArray):
    return {"a": float(len(_called(image)))}


def _called(image):
    return image.attrs.get("subject")


def test_which_functions_read_the_names():
    def by_default(image, field="subject"):
        return image.attrs[field]

    def by_parameter(image, field):
        return image.attrs[field]

    assert reads_attributes(by_default, {})
    assert reads_attributes(by_parameter, {"field": "date"})
    assert not reads_attributes(by_parameter, {"field": "mean"})

    def by_list(image):
        return {n: image.attrs[n] for n in ("source",)}

    for function in (
        by_list, _subject, _called, lambda image: image.subject, lambda image: image.attrs["name"],
        lambda image: [_called(i) for i in image], lambda image: (lambda: image.attrs["date"])(),
    ):  # fmt: skip
        assert reads_attributes(function, {})
    for function in (
        _area, lambda image: image.dtype.name, lambda image: image.y.attrs["units"], np.mean, print,
    ):  # fmt: skip
        assert not reads_attributes(function, {})


def test_values_in_units_are_put_back_or_refused(cohort):
    (ct,) = cohort.images("dtype == 'int16'")
    (stored,) = cohort.images("dtype == 'int16'", stored=True)
    assert ct.dtype == np.float64
    assert stored.dtype == np.int16
    for cut in (lambda a: a, lambda a: a[:, ::2, 5:], lambda a: a.isel(c=0)):
        image = Image.of(cut(ct))
        assert image.pixels.dtype == np.int16
        assert np.array_equal(image.pixels, Image.of(cut(stored)).pixels)
        assert image.rescale == (0.1, -1024.3)
    for change in (lambda a: a + 0.03, lambda a: a * 1e9, lambda a: a / 0):
        with np.errstate(all="ignore"), pytest.raises(UsageError, match="stored=True"):
            Image.of(change(ct).assign_attrs(ct.attrs))


def test_what_reads_drawings_is_not_tried_on_an_array(cohort):
    for operation in (engine.contours(), engine.bloodpool()):
        with pytest.raises(UsageError, match=r"cohort\.run"):
            operation(cohort.images()[0])
