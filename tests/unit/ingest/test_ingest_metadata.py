"""What files say beside their pixels reaches the catalog, OME-Zarr, and the masks of the images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import Client
from PIL import Image

import engine
from engine.kernels.segmentation.tissue import Tissue
from engine.learning.datasets.mask_files import MaskFolders
from engine.learning.datasets.masks import NoMask
from engine.store.catalog.index import CatalogIndex
from engine.store.catalog.tables import commit_with_retry, image_table, images_ledger, read_images
from tests.support.images import grey


def rows(cohort: engine.Cohort) -> dict[str, dict[str, object]]:
    table = read_images(cohort.store)[1]
    return {row["image_id"].split("/", 1)[1]: row for row in table.to_pylist()}


def test_steps_names_and_orientation_are_kept(tmp_path: Path, client: Client) -> None:
    source = tmp_path / "in"
    source.mkdir()
    stack = grey(1, (3, 4, 2, 32, 40), "uint16")
    names = {"Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(source / "o.ome.tif", stack, metadata={
        "axes": "TZCYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0,
        "TimeIncrement": 30.0, "TimeIncrementUnit": "s", **names,
    })  # fmt: skip
    tifffile.imwrite(source / "ij.tif", stack + 1, imagej=True, resolution=(2.0, 2.0), metadata={
        "axes": "TZCYX", "spacing": 2.0, "unit": "um", "finterval": 30.0,
    })  # fmt: skip
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(source / "turned.tif", grey(2), extratags=turned, metadata=None)
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(source, client=client)
    assert (report.new, dict(report.findings)) == (25, {"oriented": 1})
    found = rows(cohort)
    step = {"time_step_s": "30.0"}
    ome = {"channel_names": '["DAPI", "GFP"]'}
    for name, facts in (("o.ome.tif", step | ome), ("ij.tif", step)):
        for n, (t, z) in enumerate(np.ndindex(3, 4)):
            row = found[f"{name}#{n}"]
            assert (row["t"], row["z"]) == (t, z)
            assert (row["time_ms"], row["spacing_z_um"]) == (30_000.0 * t, 2.0)
            header = dict(row["header"])  # type: ignore[call-overload]
            assert ("display" in header) == (facts != step)
            header.pop("display", None)
            assert header == facts
        group = json.loads((tmp_path / f"cohort/pixels/{row['stack']}.zarr/zarr.json").read_text())
        attributes = group["attributes"]
        (scale,) = attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        assert scale["scale"] == [30_000.0, 1.0, 2.0, 0.5, 0.5]
        omero = attributes["ome"].get("omero", {"channels": []})
        labels = [channel["label"] for channel in omero["channels"]]
        assert labels == ([] if facts == step else ["DAPI", "GFP"])
    assert dict(found["turned.tif"]["header"]) == {"shown_as": "6"}  # type: ignore[call-overload]
    assert found["turned.tif"]["findings"] == ["oriented"]
    image = cohort.images().by_id("in/turned.tif")
    np.testing.assert_array_equal(image[0], grey(2))


def test_rehash_brings_to_an_older_cohort_what_it_did_not_keep(
    tmp_path: Path, client: Client
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    turned = [(274, "H", 1, 3, True)]
    tifffile.imwrite(source / "a.tif", grey(1), extratags=turned, metadata=None)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(source, client=client)
    ledger = images_ledger(cohort.store)
    snapshot = ledger.snapshot()
    row = CatalogIndex(ledger, snapshot).image("in/a.tif", "in/a.tif")
    assert row is not None
    older = replace(row, header={}, findings=(), version=row.version + 1)
    part = ledger.write_part(image_table([older]))
    commit_with_retry(ledger, snapshot, lambda _: ([part], []))
    cohort = engine.open(tmp_path / "cohort")
    assert cohort.ingest(client=client).unchanged == 1
    assert rows(cohort)["a.tif"]["findings"] == []
    cohort.ingest(client=client, rehash=True)
    assert rows(cohort)["a.tif"]["findings"] == ["oriented"]


def test_masks_lie_on_turned_images_or_are_refused(tmp_path: Path, client: Client) -> None:
    source = tmp_path / "in"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = {"wide": grey(1, (40, 60)), "square": grey(2, (50, 50)), "upright": grey(3, (40, 60))}
    drawn = {}
    for name, pixels in stored.items():
        drawn[name] = np.zeros(pixels.shape, np.uint8)
        drawn[name][5:12, 20:33] = 1
        source.mkdir(exist_ok=True)
        options = {} if name == "upright" else {"exif": exif}
        Image.fromarray(pixels).save(source / f"{name}.png", **options)
        for tissue in ("bone", "fat"):
            (tmp_path / "masks" / tissue).mkdir(parents=True, exist_ok=True)
            mask = drawn[name] if tissue == "bone" else np.zeros_like(drawn[name])
            if name != "upright":
                mask = np.rot90(mask, -1)  # as a viewer shows orientation 6
            Image.fromarray(mask * np.uint8(255)).save(tmp_path / f"masks/{tissue}/{name}.png")
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(source, client=client)
    images = read_images(cohort.store)[1]
    masks = MaskFolders(tmp_path / "masks", may_be_empty=(Tissue.FAT,)).open(cohort.store, images)
    np.testing.assert_array_equal(masks.read("in/wide.png"), drawn["wide"])
    np.testing.assert_array_equal(masks.read("in/upright.png"), drawn["upright"])
    with pytest.raises(NoMask, match="shown turned"):
        masks.read("in/square.png")
