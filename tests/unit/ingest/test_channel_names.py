"""Names of channels reach catalog, arrays and stacks, from files and from cohort.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import engine
from engine.errors import ConfigError
from engine.store.catalog.derived import DERIVED
from engine.store.catalog.tables import IMAGES, images_ledger, read_images
from engine.store.config import parse_config
from tests.support.images import grey, put
from tests.support.inprocess_client import here
from tests.support.slides import item, put_slide

BLUE, RED = (np.outer(rgb, np.arange(256)).astype(np.uint8) for rgb in ((0, 0, 1), (1, 0, 0)))


def ingest(folder: Path, **root: Any) -> engine.Cohort:
    """Ingest a folder named ``in``; entries of its root come from the caller."""
    cohort = engine.create(folder / "cohort")
    entries = "".join(f"{name} = {value}\n" for name, value in root.items())
    toml = folder / "cohort" / "cohort.toml"
    toml.write_text(f"[roots.in]\npath = '{folder / 'in'}'\n{entries}")
    with here() as client:
        cohort.ingest(client=client)
    return cohort


def names(cohort: engine.Cohort) -> dict[str, list[str] | None]:
    """Return the names in the catalog, by file."""
    rows = read_images(cohort.store)[1].to_pylist()
    return {row["source"].removeprefix("in/"): row["channel_names"] for row in rows}


def test_names_in_files_are_a_column_and_a_coordinate(tmp_path: Path) -> None:
    planes = grey(1, (2, 32, 40), "uint16")
    here_in = tmp_path / "in"
    ome = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}}
    dyes = {"axes": "CYX", "Channel": {"Fluor": ["Hoechst", "Cy5"], "Name": ["", "T  cells"]}}
    put(here_in / "ome.ome.tif", planes, metadata=ome)
    put(here_in / "dyes.ome.tif", planes + 1, metadata=dyes)
    put(here_in / "half.ome.tif", planes + 2, metadata={**ome, "Channel": {"Name": ["DAPI", ""]}})
    put(here_in / "twice.ome.tif", planes + 3, metadata={**ome, "Channel": {"Name": ["A", "A"]}})
    put(here_in / "plain.tif", planes[0])
    cohort = ingest(tmp_path)
    assert names(cohort) == {
        "ome.ome.tif": ["DAPI", "CD3"], "dyes.ome.tif": ["Hoechst", "T cells"],
        "half.ome.tif": ["DAPI", ""], "twice.ome.tif": ["A", "A"], "plain.tif": None,
    }  # fmt: skip
    images = cohort.images()
    np.testing.assert_array_equal(images.by_id("in/ome.ome.tif").sel(c="CD3"), planes[1])
    assert images.by_id("in/half.ome.tif").c.values.tolist() == ["DAPI", "1"]
    for unnamed in ("plain.tif", "twice.ome.tif"):
        assert "c" not in images.by_id(f"in/{unnamed}").coords
    labels = {
        tuple(node["c"].values.tolist()) if "c" in node.coords else ()
        for node in cohort.stacks().leaves
    }
    assert labels == {("DAPI", "CD3"), ("Hoechst", "T cells"), ("DAPI", "1"), ()}


@pytest.mark.parametrize(
    ("shape", "axes", "labels", "expected"),
    [
        ((2, 32, 40), "CYX", ["DAPI", "CD3"], ["DAPI", "CD3"]),
        ((3, 2, 32, 40), "ZCYX", ["DAPI", "CD3"] * 3, ["DAPI", "CD3"]),
        ((3, 2, 32, 40), "ZCYX", [f"s{n}" for n in range(6)], None),  # labels of slices
        ((2, 32, 40), "CYX", ["a.tif", "a.tif"], None),  # of the file
        ((3, 32, 40), "ZYX", ["a", "b", "c"], None),
    ],
)
def test_labels_of_imagej_are_names_if_they_are_per_channel(
    tmp_path: Path, shape: tuple[int, ...], axes: str, labels: list[str], expected: Any
) -> None:
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    metadata = {"axes": axes, "Labels": labels, "LUTs": [BLUE, RED], "mode": "composite"}
    tifffile.imwrite(path, grey(1, shape, "uint16"), imagej=True, metadata=metadata)
    cohort = ingest(tmp_path)
    assert names(cohort) == {"a.tif": expected}


def test_a_root_names_channels_and_takes_precedence(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.ome.tif", grey(1, (2, 32, 40)), metadata={
        "axes": "CYX", "Channel": {"Name": ["C1", "C2"]}})  # fmt: skip
    put(tmp_path / "in" / "b.png", grey(2))
    cohort = ingest(tmp_path, channels='["DAPI", "CD3"]')
    assert names(cohort) == {"a.ome.tif": ["DAPI", "CD3"], "b.png": None}
    findings = {row["source"]: row["findings"] for row in read_images(cohort.store)[1].to_pylist()}
    assert findings == {"in/a.ome.tif": [], "in/b.png": ["channel_names_differ"]}
    for wrong in ('["A", "A"]', '["A", " "]', "3"):
        with pytest.raises(ConfigError, match="channels"):
            parse_config(f"[roots.in]\npath = '/in'\nchannels = {wrong}".encode())


def test_new_names_of_a_root_come_by_rehash(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.tif", grey(1, (2, 32, 40)), metadata={"axes": "CYX"})
    cohort = ingest(tmp_path)
    before = read_images(cohort.store)[1].to_pylist()[0]
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + 'channels = ["DAPI", "CD3"]\n')
    with here() as client:
        cohort.ingest(client=client)
        assert names(cohort) == {"a.tif": None}
        cohort.ingest(client=client, rehash=True)
    assert names(cohort) == {"a.tif": ["DAPI", "CD3"]}
    after = read_images(cohort.store)[1].to_pylist()[0]
    assert [after[n] for n in ("content", "stack", "t")] == [
        before[n] for n in ("content", "stack", "t")
    ]
    assert cohort.verify().problems == ()


def test_names_are_on_disk_as_format_1_has_them(tmp_path: Path) -> None:
    """A reader of an earlier version finds the columns that it knows, and no others."""
    put(tmp_path / "in" / "a.ome.tif", grey(1, (2, 32, 40)), metadata={
        "axes": "CYX", "Channel": {"Name": ["DAPI", "µ"]}})  # fmt: skip
    cohort = ingest(tmp_path)
    ledger = images_ledger(cohort.store)
    (part,) = ledger.snapshot().parts
    stored = ledger.read_part(part)
    assert stored.column_names == IMAGES.names
    assert dict(stored["header"][0].as_py())["channel_names"] == '["DAPI", "µ"]'
    read = read_images(cohort.store)[1]
    assert read.column_names == [*IMAGES.names, *DERIVED.names]
    assert read.schema.field("channel_names").type == DERIVED.field("channel_names").type


def test_steps_in_time_are_a_column(tmp_path: Path) -> None:
    frames = grey(1, (3, 4, 32, 40))
    put(tmp_path / "in" / "a.ome.tif", frames, metadata={
        "axes": "TZYX", "TimeIncrement": 500.0, "TimeIncrementUnit": "ms", "PhysicalSizeZ": 2.0,
    })  # fmt: skip
    tifffile.imwrite(tmp_path / "in" / "b.tif", frames + 1, imagej=True, metadata={
        "axes": "TZYX", "finterval": 0.1, "spacing": 2.0, "unit": "um"})  # fmt: skip
    put(tmp_path / "in" / "c.png", grey(3))
    rows = read_images(ingest(tmp_path).store)[1].to_pylist()
    steps = {(row["source"], row["time_step_s"], row["spacing_z_um"]) for row in rows}
    assert steps == {
        ("in/a.ome.tif", 0.5, 2.0), ("in/b.tif", 0.1, 2.0), ("in/c.png", None, None),
    }  # fmt: skip


@pytest.mark.parametrize("sparse", [False, True])
def test_optical_paths_are_named_by_stains_and_never_by_free_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse: bool
) -> None:
    monkeypatch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    paths = [
        item(OpticalPathIdentifier="1", OpticalPathDescription=" DAPI"),
        item(OpticalPathIdentifier="2", OpticalPathDescription="DAPI of Jane Doe"),
        item(OpticalPathIdentifier="3", OpticalPathDescription="x", IlluminationWaveLength=488.0),
    ]
    if sparse:  # frames name their paths
        for n, path in enumerate(paths):
            path.OpticalPathIdentifier = f"CANARY{n}"
    planes = [grey(n, (64, 80)) for n in range(3)]
    put_slide(tmp_path / "in" / "a.dcm", planes, sparse=sparse, OpticalPathSequence=paths)
    cohort = ingest(tmp_path, confidential="true")
    (found,) = names(cohort).values()
    assert found == ["DAPI", "", "488 nm"]
    np.testing.assert_array_equal(cohort.images()[0].sel(c="488 nm"), planes[2])


def test_names_in_files_of_a_confidential_root_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    put(tmp_path / "in" / "a.ome.tif", grey(1, (2, 32, 40)), metadata={
        "axes": "CYX", "Channel": {"Name": ["Jane", "Doe"]}})  # fmt: skip
    assert [*names(ingest(tmp_path, confidential="true")).values()] == [None]
