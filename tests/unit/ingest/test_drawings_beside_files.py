"""Which image a GeoJSON is of: doubled suffixes, planes of series, nuclei, and other formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client

from engine.errors import SourceUnreadable
from engine.ingest.annotations.matching import MATCHING_REASONS
from engine.sources.annotations.geojson import GeoJsonReader
from engine.store.catalog.annotations import read_annotations
from jobs.messages import annotations as drawings
from tests.unit.ingest.test_drawn_structures import A, B, C, Place, feature, polygon


def stack(path: Path, axes: str, *shape: int, seed: int = 0, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*shape, 64, 64), dtype=np.uint8)
    how = how or {"ome": True}
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, photometric="minisblack", **how)


def drawn(place: Place) -> dict[str, list[str]]:
    """Return the structures of each image that has any."""
    found = {}
    for image in place.cohort.images():
        names = sorted(c.structure for c in place.cohort.annotations_of(image.image_id))
        if names:
            found[image.image_id.removeprefix("data/s1/")] = names
    return found


def troubled(place: Place) -> set[tuple[str, str]]:
    state = place.cohort.status().annotations
    assert state is not None
    return {(row["structure"], row["reason"]) for row in state.troubled}


def on_plane(box: tuple[int, int, int, int], name: str, **plane: int) -> dict[str, Any]:
    return feature({**polygon(*box), "plane": plane}, name)


@pytest.fixture
def place(tmp_path: Path, client: Client) -> Place:
    return Place(tmp_path, client)


def test_files_of_doubled_suffixes_are_found(place: Place) -> None:
    data = place.data / "s1"
    for n, name in enumerate(("q30.ome.tif", "b.1.ome.tiff", "c.ome.btf", "d.ome.tif", "d.tif")):
        stack(data / name, "YX", seed=n)
    stack(data / "e.ome.tif", "YX", seed=8)
    stack(data / "e.ome.tiff", "YX", seed=9)
    names = ("q30", "b.1", "c.ome", "d", "d.ome.tif", "e", "nobody")
    for name in names:
        place.draw(name, feature(polygon(*A), name))
    report = place.ingest()
    assert drawn(place) == {
        "q30.ome.tif": ["q30"],
        "b.1.ome.tiff": ["b.1"],
        "c.ome.btf": ["c.ome"],
        "d.tif": ["d"],  # what has the name itself, before what has more
        "d.ome.tif": ["d.ome.tif"],
    }
    assert troubled(place) == {("e", "ambiguous"), ("nobody", "no_image")}
    assert report.refused == 2


def test_planes_of_qupath_choose_the_image_of_a_series(place: Place) -> None:
    data = place.data / "s1"
    stack(data / "z.tif", "ZYX", 3, imagej=True)
    stack(data / "tz.ome.tif", "TZCYX", 2, 3, 2)
    stack(data / "one.ome.tif", "YX", seed=3)
    stack(data / "t.ome.tif", "TYX", 3, seed=4)
    tifffile.imwrite(data / "pages.tif", np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64),
                     photometric="minisblack", metadata=None)  # fmt: skip
    place.draw("z", on_plane(A, "Second", c=-1, z=1, t=0), on_plane(C, "Gone", z=7),
               feature(polygon(*A), "First"), on_plane(B, "Second", z=1))  # fmt: skip
    place.draw("tz", on_plane(A, "Last", c=1, z=2, t=1), on_plane(A, "Middle", z=1))
    place.draw("one", on_plane(A, "Here", z=0), on_plane(A, "Above", z=1))
    place.draw("t", on_plane(A, "Late", t=2))
    place.draw("pages", on_plane(A, "Any", z=1))
    report = place.ingest()
    assert drawn(place) == {
        "z.tif#0": ["First"],
        "z.tif#1": ["Second"],
        "tz.ome.tif#1": ["Middle"],
        "tz.ome.tif#5": ["Last"],
        "one.ome.tif": ["Here"],
        "t.ome.tif#2": ["Late"],
    }
    assert troubled(place) == {
        ("Gone", "other_plane"), ("Above", "other_plane"), ("Any", "ambiguous"),
    }  # fmt: skip
    assert report.refused == 3
    assert "z or t that does not exist" in MATCHING_REASONS["other_plane"]
    digests = read_annotations(place.cohort.store).digests
    # Where no object has a plane, nothing says that the first one is meant.
    place.draw("z", feature(polygon(*A), "First"))
    place.ingest()
    assert ("First", "ambiguous") in troubled(place)
    place.draw("z", on_plane(A, "First", z=0))
    place.ingest()
    assert drawn(place)["z.tif#0"] == ["First"]
    assert (
        read_annotations(place.cohort.store).digests["data/s1/z.tif#0"]
        == (digests["data/s1/z.tif#0"])
    )


@pytest.mark.parametrize("plane", [{"z": "1"}, {"z": -1}, {"t": 0.5}, {"z": True}, [1], "z"])
def test_planes_that_are_none_are_named(plane: Any) -> None:
    data = json.dumps(feature({**polygon(*A), "plane": plane}, "a")).encode()
    with pytest.raises(SourceUnreadable, match="corrupt"):
        GeoJsonReader().read("a.geojson", data)


def cell(name: Any, nucleus: Any) -> dict[str, Any]:
    found = feature(polygon(*A), name)
    found["properties"]["objectType"] = "cell"
    return {**found, "nucleusGeometry": nucleus}


def test_nuclei_of_cells_are_structures_of_their_own(place: Place) -> None:
    place.image("i.png")
    inner, other = polygon(15, 15, 20, 20), polygon(90, 90, 96, 96)
    both = {"type": "MultiPolygon", "coordinates": [p["coordinates"] for p in (inner, other)]}
    place.draw("i", cell("Tumor", inner), cell("Tumor", other), cell(None, both),
               cell({"names": ["Immune", "CD8"]}, inner), cell("Stroma", None),
               cell("Odd", {"type": "Point", "coordinates": [1, 2]}))  # fmt: skip
    place.ingest()
    assert drawn(place)["i.png"] == [
        "Immune: CD8", "Immune: CD8: nucleus", "Odd", "Stroma", "Tumor", "Tumor: nucleus", "cell",
        "cell: nucleus",
    ]  # fmt: skip
    assert troubled(place) == {("Odd: nucleus", "unsupported")}
    masks = place.masks(**{"Tumor": 1, "Tumor: nucleus": 2})
    assert masks == {"data/s1/i.png": {1: 400 - 25, 2: 25 + 36}}


def test_nuclei_are_on_the_plane_of_their_cell(place: Place) -> None:
    stack(place.data / "s1" / "z.ome.tif", "ZYX", 3)
    one = cell("Tumor", polygon(15, 15, 20, 20))
    one["geometry"]["plane"] = {"c": -1, "z": 2, "t": 0}
    place.draw("z", one)
    place.ingest()
    assert drawn(place) == {"z.ome.tif#2": ["Tumor", "Tumor: nucleus"]}


def test_files_that_no_reader_takes_are_counted_and_said(place: Place) -> None:
    place.image("i.png")
    text = json.dumps(feature(polygon(*A), "Bone")).encode()
    (place.marks / "i.geojson.gz").write_bytes(gzip.compress(text))
    for name in ("i.json", "deep/j.JSON", "i.xml", "notes.md", "plain"):
        path = place.marks / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
    for _ in range(2):  # also when nothing is new
        report = place.ingest().annotations
        assert (report.listed, report.ignored, report.refused) == (0, 6, 0)
        assert report.untaken == {".geojson.gz": 1, ".json": 2, ".xml": 1}
        json.dumps(report.as_json())
    first, second = drawings.ingest_lines(report)
    assert first == "Drawings: 0 new, 0 changed (0 files, 0 unchanged, 6 ignored)."
    assert second.endswith("not of the format that is declared: 1 .geojson.gz, 2 .json, 1 .xml.")
    place.draw("i", feature(polygon(*A), "Bone"))
    assert place.ingest().annotations.new == 1
