"""What people draw, from file to masks and figures: many polygons, slides, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client

import engine
from engine.learning.datasets.left_out import find_left_out, told_left_out
from engine.learning.datasets.masks import ContourMasks
from engine.learning.evaluation.evaluation import evaluation_of, read_evaluation, write_evaluation
from engine.learning.evaluation.page import write_page
from engine.learning_drivers.evaluate import Scored
from engine.store.catalog.annotations import (
    AnnotationRow,
    annotation_table,
    annotations_ledger,
    digest_rings,
    read_annotations,
)
from engine.store.catalog.index import CatalogIndex
from engine.store.catalog.tables import commit_with_retry, image_table, images_ledger, read_images
from jobs import night as nightly
from jobs.cli import app
from jobs.messages import annotations as drawings
from tests.support.dicom import KEY, uid
from tests.support.images import put
from tests.support.slides import put_slide

Box = tuple[int, int, int, int]


def polygon(top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(geometry: Any, name: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = name if isinstance(name, dict) else {"name": name}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


class Place:
    """A cohort with annotations as QuPath writes them."""

    def __init__(self, base: Path, client: Client, toml: str = "") -> None:
        self.base, self.client = base, client
        self.data, self.marks = base / "data", base / "marks"
        self.marks.mkdir()
        self.cohort = engine.create(base / "cohort")
        file = base / "cohort" / "cohort.toml"
        lines = f'\n[annotations.marks]\npath = "{self.marks}"\nformat = "geojson"\n'
        file.write_text(file.read_text() + toml + lines)

    def image(self, name: str, shape: tuple[int, int] = (128, 128), seed: int = 0) -> None:
        pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
        put(self.data / "s1" / name, pixels)

    def draw(self, stem: str, *features: dict[str, Any]) -> None:
        collection = {"type": "FeatureCollection", "features": features}
        (self.marks / f"{stem}.geojson").write_text(json.dumps(collection))

    def ingest(self, **how: Any) -> Any:
        return self.cohort.ingest(self.data, client=self.client, **how)

    def masks(self, **labels: int) -> dict[str, dict[int, int]]:
        """Return how many pixels of each label the masks of batches have."""
        found = {}
        for batch in self.cohort.batches(masks=labels, batch_size=1).numpy():
            counted = np.bincount(batch["mask"][0].ravel(), minlength=3).tolist()
            found[batch["image_id"][0]] = {n: counted[n] for n in labels.values()}
        return found


@pytest.fixture
def place(tmp_path: Path, client: Client) -> Place:
    return Place(tmp_path, client)


A, B, C = (10, 10, 30, 30), (20, 20, 40, 40), (10, 90, 30, 110)


def test_masks_and_figures_have_all_polygons_of_a_class(place: Place) -> None:
    for n in range(3):
        place.image(f"i{n}.png", seed=n)
    place.draw("i0", *(feature(polygon(*box), "Tumor") for box in (A, C, (60, 10, 80, 30))))
    place.draw("i1", *(feature(polygon(*box), "Tumor") for box in (A, B)),
               feature(polygon(12, 12, 18, 18), "Necrosis"))  # fmt: skip
    place.draw("i2", feature(polygon(*A), {"names": ["Tumor", "Positive"]}),
               feature(polygon(*C), {"names": ["Tumor", "Negative"]}),
               feature(polygon(0, 0, 128, 128), None))  # fmt: skip
    report = place.ingest()
    assert (report.annotations.new, report.refused) == (6, 0)
    names = {c.structure for c in place.cohort.annotations_of("data/s1/i2.png")}
    assert names == {"Tumor: Positive", "Tumor: Negative", "annotation"}
    assert place.masks(Tumor=1) == {"data/s1/i0.png": {1: 1200}, "data/s1/i1.png": {1: 700}}
    place.cohort.run(engine.contours(inner="Necrosis", outer="Tumor"), client=place.client)
    table = place.cohort.table("contours").set_index(["image_id", "structure"])
    tumor = table.loc[("data/s1/i1.png", "Tumor")]
    assert (tumor["area_px"], tumor["mask_area_px"], tumor["rings"]) == (700.0, 700, 2)
    assert (tumor["y"], tumor["x"]) == pytest.approx((24.5, 24.5))
    assert table.loc[("data/s1/i0.png", "Tumor")]["area_px"] == 1200.0
    assert table.loc[("data/s1/i1.png", "Necrosis")]["inside_share"] == 1.0
    assert len(place.cohort.table("contour_findings")) == 0
    drawn = ContourMasks({"Tumor": 2}).open(place.cohort.store, read_images(place.cohort.store)[1])
    assert (drawn.read("data/s1/i1.png") == 2).sum() == 700


def test_drawings_of_slides_are_scaled_to_what_was_read(tmp_path: Path, client: Client) -> None:
    place = Place(tmp_path, client, "\n[slides]\nspacing_um = 2.0\n")
    place.data.joinpath("s1").mkdir(parents=True)
    levels = [np.full((1024 >> n, 1536 >> n, 3), 240 - n, np.uint8) for n in range(3)]
    with tifffile.TiffWriter(place.data / "s1" / "slide.tif", bigtiff=True) as tif:
        for n, level in enumerate(levels):  # 0.5 um
            tif.write(level, tile=(256, 256), photometric="rgb", subfiletype=int(n > 0),
                      resolution=(20000 / 2**n,) * 2, resolutionunit="CENTIMETER",
                      metadata=None)  # fmt: skip
    place.image("plain.tif")  # is no slide, and stays as it is
    angle = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([700.5 + 200 * np.cos(angle), 512.5 + 200 * np.sin(angle)], axis=1)
    circle[-1] = circle[0]
    round_one = {"type": "Polygon", "coordinates": [circle.tolist()]}
    place.draw("slide", feature(round_one, "Tumor"), feature(polygon(60, 100, 160, 200), "Corner"))
    place.draw("plain", feature(polygon(*A), "Corner"))
    place.ingest()
    place.cohort.run(engine.contours(), client=client)
    table = place.cohort.table("contours").set_index(["image_id", "structure"])
    corner = table.loc[("data/s1/slide.tif", "Corner")]
    assert (corner["area_px"], corner["mask_area_px"], corner["y"], corner["x"]) == (
        625,
        625,
        27,
        37,
    )
    assert corner["area_mm2"] * 1e6 == pytest.approx(2500)
    tumor = table.loc[("data/s1/slide.tif", "Tumor")]
    assert tumor["area_mm2"] * 1e6 == pytest.approx(np.pi * 100**2, rel=1e-3)
    assert (tumor["y"], tumor["x"]) == pytest.approx((127.625, 174.625), abs=0.01)
    assert table.loc[("data/s1/plain.tif", "Corner")]["area_px"] == 400
    # A slide of which it was not kept how much smaller it was read: nothing is laid anywhere.
    ledger, (snapshot, rows) = images_ledger(place.cohort.store), read_images(place.cohort.store)
    known = CatalogIndex(ledger, snapshot)
    old = []
    for image_id in rows["image_id"].to_pylist():
        row = known.image(image_id, image_id)
        assert row is not None
        old.append(replace(row, version=9, header={}))
    part = ledger.write_part(image_table(old))
    commit_with_retry(ledger, snapshot, lambda _: ([part], []))
    place.draw("slide", feature(polygon(60, 100, 160, 204), "Corner"))
    report = place.ingest()
    assert [(row["structure"], row["reason"]) for row in report.annotations.refused_first] == [
        ("Corner", "no_scale")
    ]
    assert "data/s1/slide.tif" not in read_annotations(place.cohort.store).refs
    report = place.ingest(rehash=True)  # as the reason says
    assert (report.touched, report.refused) == (2, 0)
    assert "data/s1/slide.tif" in read_annotations(place.cohort.store).refs


def test_what_an_older_version_stored_is_read_again_and_changes_where_it_was_wrong(
    place: Place,
) -> None:
    place.image("one.png")
    place.image("many.png", seed=1)
    place.draw("one", feature(polygon(*A), "Tumor"))
    place.draw("many", feature(polygon(*A), "Tumor"), feature(polygon(*B), "Tumor"))
    place.ingest()
    before = read_annotations(place.cohort.store)
    # As it stood there: polygons numbered, no rule among what they were made of.
    ledger = annotations_ledger(place.cohort.store)
    rows = []
    for name, boxes in (("one", [A]), ("many", [A, B])):
        for n, box in enumerate(boxes):
            ring = np.array(polygon(*box)["coordinates"][0][:-1])[:, ::-1] - 0.5
            stat = (place.marks / f"{name}.geojson").stat()
            rows.append(
                AnnotationRow(
                    image_id=f"data/s1/{name}.png", state="ready", annotation="marks",
                    source=f"marks/{name}.geojson", version=5, size=stat.st_size,
                    structure="Tumor" if n == 0 else f"Tumor#{n + 1}",
                    mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns, made_of="old",
                    digest=digest_rings([ring.ravel()]), rings=(tuple(ring.ravel().tolist()),),
                )
            )  # fmt: skip
    part = ledger.write_part(annotation_table(rows))
    commit_with_retry(ledger, ledger.snapshot(), lambda _: ([part], []))
    place.cohort.run("contours", client=place.client)
    assert place.masks(Tumor=1)["data/s1/many.png"] == {1: 400}  # its meaning is kept until then
    old = read_annotations(place.cohort.store).digests
    report = place.ingest().annotations
    assert (report.unchanged, report.changed, report.retired) == (0, 1, 1)
    now = read_annotations(place.cohort.store)
    assert now.digests == before.digests
    assert now.digests["data/s1/one.png"] == old["data/s1/one.png"]
    assert place.cohort.plan("contours").to_compute == 1
    assert place.masks(Tumor=1)["data/s1/many.png"] == {1: 700}
    assert place.ingest().annotations.unchanged == 2
    assert place.cohort.verify().ok


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run a command with --json in this process."""
    with pytest.raises(SystemExit) as ended:
        app([*words, "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out.splitlines()[-1])


POINT = {"type": "Point", "coordinates": [5, 5]}
LINE = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}


def test_refused_drawings_are_said_counted_and_exit_code_3_once(
    place: Place, capsys: pytest.CaptureFixture[str], client: Client
) -> None:
    place.image("i.png")
    place.draw("i", feature(polygon(*A), "Bone"), feature(POINT, "Count"), feature(LINE, "Ruler"))
    at = ("--scheduler", client.scheduler.address)
    cohort, data = str(place.base / "cohort"), str(place.data)
    code, values = run(capsys, "ingest", cohort, data, *at)
    assert code == 3
    drawn = values["annotations"]
    assert (drawn["new"], drawn["failed"], drawn["refused"]) == (1, 2, 2)
    assert sorted((row["structure"], row["reason"]) for row in drawn["refused_first"]) == [
        ("Count", "unsupported"), ("Ruler", "unclosed"),
    ]  # fmt: skip
    code, values = run(capsys, "ingest", cohort, data, *at)
    assert (code, values["annotations"]["refused"]) == (0, 0)
    code, values = run(capsys, "status", cohort)
    assert code == 0
    failed = {(one["operation"], one["structure"], one["reason"]) for one in values["failed"]}
    assert failed == {("annotations", "Count", "unsupported"), ("annotations", "Ruler", "unclosed")}
    assert {row["structure"] for row in values["annotations"]["troubled"]} == {"Count", "Ruler"}
    # One more, beside those that are known: it alone counts, and may be allowed.
    (place.marks / "odd.geojson").write_text("{")
    code, values = run(capsys, "ingest", cohort, data, "--max-failed", "1", *at)
    assert (code, values["annotations"]["refused"]) == (0, 1)
    place.draw("nobody", feature(polygon(*A), "Bone"))
    report = place.ingest()
    assert report.refused == 1
    said = "\n".join(drawings.ingest_lines(report.annotations))
    assert "1 no_image: marks/nobody.geojson, Bone. The catalog has no image" in said


def test_a_night_names_refused_drawings_once_all_roots_are_in(place: Place, client: Client) -> None:
    file = place.base / "cohort" / "cohort.toml"
    roots = "".join(f'\n[roots.{n}]\npath = "{place.base / n}"\n' for n in ("a", "b"))
    file.write_text(file.read_text() + roots + "\n[operations.contours]\n")
    for name in "ab":
        put(place.base / name / "s1" / f"{name}.png", np.full((64, 64), ord(name), np.uint8))
        place.draw(name, feature(polygon(*A), "Bone"))

    def night() -> nightly.Summary:
        return nightly.run_nightly(place.cohort, client, events=engine.ProgressListener())

    first = night()  # those of b are of no image until it is in
    assert (first.exit_code, first.newly_failed, first.failures) == (0, 0, []), first
    place.draw("a", feature(polygon(*A), "Bone"), feature(POINT, "Count"))
    second = night()
    assert (second.exit_code, second.newly_failed, second.failed_total) == (3, 1, 1)
    (failure,) = second.failures
    assert failure["new"] is True
    assert (failure["source"], failure["structure"], failure["reason"]) == (
        "marks/a.geojson", "Count", "unsupported",
    )  # fmt: skip
    third = night()
    assert (third.exit_code, third.newly_failed, third.failed_total) == (0, 0, 1)
    assert third.failures[0]["new"] is False
    place.draw("a", feature(polygon(*A), "Bone"))
    assert night().failed_total == 0


def test_what_is_left_out_is_named_with_its_reason(place: Place, tmp_path: Path) -> None:
    for n in range(5):
        place.image(f"i{n}.png", seed=n)
    place.image("copy.png", seed=0)
    open_ring = {"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 9]]]}
    both = feature(polygon(*A), "Bone"), feature(polygon(*C), "Fat")
    place.draw("i0", *both)
    place.draw("copy", *both)
    place.draw("i1", *both)
    place.draw("i2", both[0])
    place.draw("i3", both[0], feature(open_ring, "Fat"))
    place.ingest()
    batches = place.cohort.batches(masks={"Bone": 1, "Fat": 2}, batch_size=1)
    assert [(one.reason, one.first) for one in batches.left_out] == [
        ("no_mask", ("data/s1/i4.png",)),
        ("not_all_drawn", ("data/s1/i2.png",)),
        ("refused", ("data/s1/i3.png",)),
    ]
    assert "1 left out (refused)" in repr(batches)
    images = read_images(place.cohort.store)[1]
    masks = ContourMasks({"Bone": 1, "Fat": 2}).open(place.cohort.store, images)
    left = find_left_out(images, {"data/s1/i0.png", "data/s1/i1.png"}, masks)
    assert {one.reason: one.count for one in left} == {
        "no_mask": 1, "not_all_drawn": 1, "refused": 1, "copy": 1,
    }  # fmt: skip
    told = list(told_left_out(left))
    assert told[2].startswith("Left out: 1 image (refused): data/s1/i3.png. What is drawn")
    made = evaluation_of("m", ("background", "bone"), [Scored("i", "i", "s", ((3, 1), (0, 2)))])
    figures = write_evaluation(tmp_path, replace(made, left_out=left))
    kept = read_evaluation(tmp_path)
    assert kept.left_out == left
    page = write_page(tmp_path, kept, figures).read_text()
    assert "data/s1/i3.png" in page


def test_drawings_of_a_dicom_slide_are_scaled_from_its_finest_level(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORT_PSEUDONYM_KEY", KEY)
    place = Place(tmp_path, client, "\n[slides]\nspacing_um = 2.0\n")
    yy, xx = np.mgrid[:256, :384]
    full = np.stack([yy, xx // 2, yy ^ xx], axis=-1).astype(np.uint8)
    for n, um in enumerate((0.5, 2.0)):  # of which the second is taken
        put_slide(place.data / f"{n}.dcm", [full[:: 4**n, :: 4**n]], um=um)
    put_slide(place.data / "alone.dcm", [full], um=1.0, SeriesInstanceUID=uid("alone"))
    for stem in ("1", "alone"):
        place.draw(stem, feature(polygon(40, 80, 80, 160), "Corner"))
    report = place.ingest()
    assert (report.new, report.refused) == (2, 0), report
    place.cohort.run(engine.contours(), client=client)
    table = place.cohort.table("contours").sort_values("area_px")
    areas = [40 * 80 / 16, 40 * 80 / 4]
    assert table["area_px"].tolist() == table["mask_area_px"].tolist() == areas
    assert table["y"].tolist() == [60.0 / 4 - 0.5, 60.0 / 2 - 0.5]
    assert (table["area_mm2"] * 1e6).tolist() == pytest.approx([40 * 80 * 0.25, 40 * 80 * 1.0])
