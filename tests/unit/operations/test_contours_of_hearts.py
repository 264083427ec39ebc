"""Contours of real and made hearts, from DICOM files to tables."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from distributed import Client

import engine
from engine.kernels.contours.geometry import fill_contour
from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineOptions
from engine.sources.annotations import create_reader
from engine.store.catalog.annotations import annotations_ledger, read_annotations, read_contours
from tests.support.data import shared_data
from tests.support.drawing_files import write_rtstruct, write_seg

Ingest = Callable[[engine.Cohort, Path], Any]


@pytest.fixture(scope="module", autouse=True)
def _key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
        warnings.filterwarnings("ignore", category=UserWarning)  # pydicom, of UIDs of real files
        yield


def declare(cohort: engine.Cohort, **sets: str) -> None:
    toml = Path(cohort.store.url) / "cohort.toml"
    text = toml.read_text().split("\n[annotations")[0]
    toml.write_text(text + "".join(f"\n[annotations.{n}]\n{lines}\n" for n, lines in sets.items()))


def errors(cohort: engine.Cohort) -> pd.DataFrame:
    found = cohort.table("contour_findings")
    return found[found["severity"] == "error"]


@pytest.fixture(scope="module")
def sunnybrook(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    """A cohort of the frames, and of a copy of their contours that may be changed."""
    data = shared_data("sunnybrook")
    base = tmp_path_factory.mktemp("sunnybrook")
    shutil.copytree(data / "contourfiles", base / "data" / "contourfiles")
    shutil.copy(data / "link.csv", base / "data")
    cohort = engine.create(base / "cohort")
    declare(cohort, manual=f'path = "{base / "data"}"\nformat = "sunnybrook"')
    report = cohort.ingest(data / "dicoms", client=client)
    assert (report.new, report.annotations.new, report.annotations.unmatched) == (54, 81, 0)
    cohort.run(engine.contours(), client=client)
    cohort.run(engine.bloodpool(), client=client)
    return cohort


def test_sunnybrook_contours_are_as_is_known_of_them(sunnybrook: engine.Cohort) -> None:
    table = sunnybrook.table("contours")
    assert table["image_id"].nunique() == 54
    assert table["structure"].value_counts().to_dict() == {"inner": 54, "outer": 27}
    gap = (table["mask_area_px"] / table["area_px"] - 1).abs()
    print(f"mask against polygon: mean {gap.mean():.3%}, greatest {gap.max():.2%}")
    assert gap.mean() <= 0.005
    shares = table["inside_share"].dropna()
    print(f"inner inside outer: least {shares.min():.3%} of {len(shares)}")
    assert len(shares) == 27
    assert shares.min() >= 0.995
    assert errors(sunnybrook).empty
    function = sunnybrook.table("contour_function")
    print(function[["end_diastolic_ml", "end_systolic_ml", "ejection_fraction_percent", "mass_g"]])
    assert len(function) == 3
    assert function["ejection_fraction_percent"].between(15, 45).all()  # failing hearts, HF-I
    assert function["mass_g"].between(80, 200).all()
    quantities = sunnybrook.table("contour_quantities")
    assert quantities["thickness_mean_mm"].dropna().between(3, 12).all()
    assert sunnybrook.status().complete
    assert sunnybrook.verify().ok
    stored = "".join(str(p) for p in Path(sunnybrook.store.url).rglob("*"))
    names = sunnybrook.status().annotations
    assert "SC-HF" not in stored + str(names) + table.to_csv()


def test_thresholds_find_most_of_the_blood_pool(sunnybrook: engine.Cohort) -> None:
    table = sunnybrook.table("bloodpool")
    by_subject = sunnybrook.table("bloodpool_by_subject")
    print(f"Dice: mean {table['dice'].mean():.3f}, least {table['dice'].min():.3f}")
    print(by_subject.round(3))
    assert len(table) == table["dice"].notna().sum() == 27
    assert table["dice"].mean() >= 0.87
    assert by_subject["scored"].tolist() == [9, 9, 9]


def test_contours_of_another_patient_are_flagged_and_computed_alone(
    sunnybrook: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    shutil.copytree(sunnybrook.store.url, tmp_path / "cohort")
    before = Path(sunnybrook.store.url).parent / "data"
    shutil.copytree(before, tmp_path / "data")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text().replace(str(before), str(tmp_path / "data")))
    cohort = engine.open(tmp_path / "cohort")
    owners, others = (
        sorted((tmp_path / "data/contourfiles" / name / "o-contours").iterdir())
        for name in ("SC-HF-I-1", "SC-HF-I-5")
    )
    for mine, other in zip(owners, others, strict=True):
        mine.write_bytes(other.read_bytes())
    report = cohort.ingest(client=client).annotations
    assert report is not None
    assert (report.new, report.changed, report.retired) == (0, 9, 0)
    run = cohort.run("contours", client=client)
    assert (run.published, run.up_to_date) == (9, 45)
    (shown,) = cohort.reveal(owners[0])
    assert shown["image_id"] in cohort.table("contours")["image_id"].to_list()
    assert (shown["state"], shown["path"]) == ("ready", str(owners[0]))
    found = errors(cohort)
    table = cohort.table("contours")
    short = table[table["inside_share"] < 0.995]
    swapped = set(table.loc[table["points_digest"].duplicated(keep=False), "image_id"])
    duplicates = found[found["check"] == "duplicate"]
    assert set(duplicates["image_id"]) == swapped
    assert len(duplicates) == 18  # each of nine, under both patients
    assert set(duplicates["structure"]) == {"outer"}
    escaped = found[found["check"] == "not_contained"]
    print(f"not contained: {len(escaped)} of 9, shares {escaped['figure'].round(3).tolist()}")
    assert sorted(escaped["image_id"]) == sorted(short["image_id"])
    assert len(escaped) > 0
    assert len(found) == len(duplicates) + len(escaped)


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    options = CineOptions(patients=2, slices=4, phases=4, size_px=128, noise=4.0)
    base = tmp_path_factory.mktemp("cine")
    return base, pd.read_parquet(write_cine(base / "cine", options))


def test_a_made_heart_has_the_volumes_that_it_was_made_with(
    cine: tuple[Path, pd.DataFrame], client: Client
) -> None:
    """The same contours come as text, as SEG and as RTSTRUCT; each is matched and measured."""
    base, truth = cine
    folder = base / "cine"
    reader = create_reader("sunnybrook", folder, {})
    drawn: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.txt")):
        (drawing,) = reader.read(path.relative_to(folder).as_posix(), path.read_bytes())
        image = folder / "dicoms" / drawing.target.paths[0]
        drawn.setdefault(image, {})[drawing.structure] = drawing.rings
    for kind in ("seg", "rtstruct"):
        (base / kind).mkdir()
    for n, (image, rings) in enumerate(list(drawn.items())[:6]):
        source = pydicom.dcmread(image)
        masks = {name: fill_contour(of, (128, 128)) for name, of in rings.items()}
        (base / "seg" / f"{n}.dcm").write_bytes(write_seg([source], [masks]))
        named = {"LV endo": rings["inner"], "outer": rings["outer"], "CANARY^Jo": rings["inner"]}
        (base / "rtstruct" / f"{n}.dcm").write_bytes(write_rtstruct([source], [named]))
    cohort = engine.create(base / "cohort")
    declare(
        cohort,
        text=f'path = "{folder}"\nformat = "sunnybrook"',
        masks=f'path = "{base / "seg"}"\nformat = "seg"',
        plan=f'path = "{base / "rtstruct"}"\nformat = "rtstruct"\n'
        'structures = {"LV endo" = "inner"}',
    )
    report = cohort.ingest(folder / "dicoms", client=client).annotations
    assert report is not None
    assert (report.new, report.unmatched, report.failed) == (64 + 12 + 18, 0, 0)
    # What came through SEG and RTSTRUCT covers the same pixels as what was drawn.
    refs = read_annotations(cohort.store).refs
    for contours in read_contours(cohort.store, refs).values():
        by_name = {(c.annotation, c.structure): fill_contour(c.rings, (128, 128)) for c in contours}
        for (_, structure), mask in by_name.items():
            same = "inner" if structure.startswith("structure-") else structure
            assert (mask == by_name["text", same]).all()

    cohort.run(engine.contours(annotations="text"), client=client)
    assert errors(cohort).empty
    function = cohort.table("contour_function").sort_values("end_diastolic_ml")
    heart = truth.groupby("patient_id").first().sort_values("edv_ml")
    for ours, theirs in (
        (function["end_diastolic_ml"], heart["edv_ml"]),
        (function["end_systolic_ml"], heart["esv_ml"]),
        (function["ejection_fraction_percent"], heart["ejection_fraction"] * 100),
        (function["mass_g"], heart["mass_g"]),
    ):
        assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    volumes = cohort.table("contour_volumes")["inner_volume_ml"]
    known = truth.groupby(["patient_id", "phase"])["volume_ml"].first()
    assert sorted(volumes) == pytest.approx(sorted(known), rel=1e-6)
    areas = cohort.table("contour_quantities")["inner_area_mm2"]
    assert sorted(areas) == pytest.approx(sorted(truth["endo_area_mm2"]), rel=1e-6)
    # Other sets are trials: each has six frames.
    cohort.run(engine.contours(annotations="masks"), client=client)
    trial = next(name for name in cohort.tables() if name.startswith("contour_quantities@"))
    table = cohort.table(trial)
    assert len(table) == 6
    assert np.isfinite(table["outer_area_mm2"]).all()

    cohort.run(engine.bloodpool(annotations="text"), client=client)
    scores = cohort.table("bloodpool_by_subject")
    assert scores["dice_mean"].min() > 0.9
    assert scores["images"].tolist() == [16, 16]
    assert not math.isnan(scores["dice_sd"].max())
    assert cohort.verify().ok
    text = "".join(cohort.table(name).to_csv() for name in cohort.tables())
    ledger = annotations_ledger(cohort.store)
    drawings = ledger.read(ledger.snapshot().parts).drop_columns(["rings"]).to_pylist()
    assert "structure-" in str(drawings)
    assert "CANARY" not in text + str(cohort.status().as_json()) + str(drawings)


def test_a_heart_that_lacks_a_slice_has_no_volume_and_says_so(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that were made by the rule before are made again, of the results that there are."""
    made, folder = tmp_path / "cine", tmp_path / "in"
    write_cine(made, CineOptions(patients=1, slices=5, phases=2, size_px=120))
    folder.mkdir()
    files = sorted((made / "dicoms").rglob("*.dcm"))
    places = sorted({pydicom.dcmread(path).ImagePositionPatient[2] for path in files})
    for n, path in enumerate(files):  # the middle one is lost
        if pydicom.dcmread(path).ImagePositionPatient[2] != places[2]:
            shutil.copy(path, folder / f"{n}.dcm")
    square = [np.array([[20.5, 20.5], [20.5, 40.5], [40.5, 40.5], [40.5, 20.5]])]
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    (tmp_path / "rt").mkdir()
    (tmp_path / "rt" / "rt.dcm").write_bytes(write_rtstruct(headers, [{"inner": square}] * 8))
    cohort = engine.create(tmp_path / "cohort")
    declare(cohort, rt=f'path = "{tmp_path / "rt"}"\nformat = "rtstruct"')
    report = cohort.ingest(folder, client=client)
    assert dict(report.findings) == {"slice_gap": 8}
    with monkeypatch.context() as patch:
        patch.setattr(engine.contours, "cohort_tables_version", 1)
        cohort.run(engine.contours(), client=client)
    table = tmp_path / "cohort" / "tables" / "contour_volumes.parquet"
    before = table.stat().st_mtime_ns
    cohort.run(engine.contours(), client=client)
    assert table.stat().st_mtime_ns > before
    volumes = cohort.table("contour_volumes")
    assert volumes["inner_volume_ml"].isna().all()
    assert volumes["inner_reason"].tolist() == ["slice_gap"] * 2
    findings = cohort.table("contour_findings")
    assert findings["check"].tolist() == ["slice_gap"]
    (function,) = cohort.table("contour_function").to_dict("records")
    assert function["ejection_fraction_reason"] == "slice_gap"


def test_a_heart_that_lacks_every_second_slice_has_no_volume_and_says_so(
    tmp_path: Path, client: Client
) -> None:
    """Told by what the header says of its slices; the last series is whole."""
    made, folder = tmp_path / "cine", tmp_path / "in"
    options = CineOptions(patients=1, slices=5, phases=2, size_px=120, gap_mm=0.0)
    write_cine(made, options)
    files = sorted((made / "dicoms").rglob("*.dcm"))
    places = sorted({pydicom.dcmread(path).ImagePositionPatient[2] for path in files})
    kinds: dict[str, tuple[Any, Any, set[float]]] = {
        "stated": (8, 8, {*places[::2]}),
        "two": (8, 8, {places[0], places[2]}),
        "thick": (8, None, {*places[::2]}),
        "between": (12, 4, {*places[::2]}),  # 4 mm lie between slices of 12 mm
        "whole": (8, 8, {*places}),
    }
    headers = []
    for n, (kind, (thickness, distance, kept)) in enumerate(kinds.items()):
        (folder / kind).mkdir(parents=True)
        for i, path in enumerate(files):
            dataset = pydicom.dcmread(path)
            if dataset.ImagePositionPatient[2] not in kept:
                continue
            dataset.PatientID = kind
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                setattr(dataset, keyword, f"{getattr(dataset, keyword)}.{n}")
            dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.{n}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.SliceThickness, dataset.SpacingBetweenSlices = thickness, distance
            dataset.save_as(folder / kind / f"{i}.dcm")
            headers.append(dataset)
    square = [np.array([[20.5, 20.5], [20.5, 40.5], [40.5, 40.5], [40.5, 20.5]])]
    (tmp_path / "rt").mkdir()
    for kind in kinds:
        own = [dataset for dataset in headers if dataset.PatientID == kind]
        drawn = [{"inner": square}] * len(own)
        if kind == "two":  # only one slice of it is drawn
            own, drawn = own[:1], drawn[:1]
        (tmp_path / "rt" / f"{kind}.dcm").write_bytes(write_rtstruct(own, drawn))
    cohort = engine.create(tmp_path / "cohort")
    declare(cohort, rt=f'path = "{tmp_path / "rt"}"\nformat = "rtstruct"')
    report = cohort.ingest(folder, client=client)
    assert dict(report.findings) == {"slice_gap": 6 + 4, "slice_gap_by_thickness": 6}
    cohort.run(engine.contours(), client=client)
    volumes = cohort.table("contour_volumes").fillna({"inner_reason": ""})
    slices = cohort.images().frame.groupby("subject").size().to_dict()
    reasons = sorted(
        (slices[subject], *set(of["inner_reason"])) for subject, of in volumes.groupby("subject")
    )
    by_thickness = (6, "slice_gap_by_thickness")
    assert reasons == [(4, "slice_gap"), (6, ""), (6, "slice_gap"), by_thickness, (10, "")]
    whole = next(subject for subject, count in slices.items() if count == 10)
    area = cohort.table("contour_quantities")["inner_area_mm2"].iloc[0]
    volume = volumes.loc[volumes["subject"] == whole, "inner_volume_ml"]
    assert volume.tolist() == pytest.approx([5 * 8 * area / 1000] * 2)
    found = cohort.table("contour_findings")
    found = found[found["check"] != "duplicate"]  # the same square is drawn for all patients
    assert sorted(found["check"]) == ["slice_gap"] * 2 + ["slice_gap_by_thickness"]
    assert found["figure"].tolist() == pytest.approx([16.0] * 3)


def test_parts_and_lacking_planes_are_findings_of_contours(tmp_path: Path, client: Client) -> None:
    made, folder, rt = tmp_path / "cine", tmp_path / "in", tmp_path / "rt"
    write_cine(made, CineOptions(patients=2, slices=4, phases=2, size_px=120))
    first, second = (sorted(p.rglob("*.dcm")) for p in sorted((made / "dicoms").iterdir()))
    square = [np.array([[20.5, 20.5], [20.5, 40.5], [40.5, 40.5], [40.5, 20.5]])]
    rt.mkdir()
    lost = max(second, key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    second.remove(lost)
    for n, files in enumerate((first, second)):
        headers = [pydicom.dcmread(path) for path in files]
        content = write_rtstruct(headers, [{"inner": square}] * len(headers))
        (rt / f"{n}.dcm").write_bytes(content)
    last = max(pydicom.dcmread(path).ImagePositionPatient[2] for path in first)
    late = [path for path in first if pydicom.dcmread(path).ImagePositionPatient[2] == last]
    cohort = engine.create(tmp_path / "cohort")
    declare(cohort, rt=f'path = "{rt}"\nformat = "rtstruct"')
    for n, files in enumerate(([*{*first} - {*late}, *second], late)):
        (folder / str(n)).mkdir(parents=True)
        for i, path in enumerate(files):
            shutil.copy(path, folder / str(n) / f"{i}.dcm")
        cohort.ingest(folder, client=client)
    cohort.run(engine.contours(), client=client)
    found = cohort.table("contour_findings")
    kinds = {
        (row.check, row.severity, row.figure)
        for row in found.itertuples()
        if row.check in ("in_parts", "plane_missing")
    }
    assert {("in_parts", "warning", 1.0), ("in_parts", "warning", 3.0)} < kinds
    assert ("plane_missing", "warning", 1.0) in kinds
    reasons = set(cohort.table("contour_volumes")["inner_reason"].dropna())
    assert {"in_parts", "plane_missing"} <= reasons
    assert reasons <= set(found["check"])
