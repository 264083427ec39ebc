"""Stacks with named channels carry NGFF's block ``omero``: labels, colours and windows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs

import engine
from engine.ingest.repair import metadata
from engine.phantoms.cells.files import write_cells
from engine.phantoms.cells.options import CellOptions
from engine.store.catalog.tables import read_images, read_shards
from tests.support.images import grey, put
from tests.support.inprocess_client import here


def ingest(folder: Path, giant_bytes: int = 1 << 30) -> engine.Cohort:
    """Ingest the folder ``in`` without starting workers."""
    cohort = engine.create(folder / "cohort", layout="{name}")
    with (folder / "cohort/cohort.toml").open("a") as toml:
        toml.write(f"\n[limits]\ngiant_bytes = {giant_bytes}\n")
    with here() as client:
        report = cohort.ingest(folder / "in", client=client)
    assert report.failed == 0
    return cohort


def groups(cohort: engine.Cohort) -> dict[str, dict[str, Any]]:
    """Return the attributes of each stack, validated by two independent implementations."""
    from ome_zarr_models import open_ome_zarr

    found = {}
    for path in sorted((Path(cohort.store.url) / "pixels").glob("*.zarr")):
        yaozarrs.validate_zarr_store(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            open_ome_zarr(path, version="0.5")
        found[path.stem] = json.loads((path / "zarr.json").read_text())["attributes"]
    return found


def windows(channels: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(one["window"]["start"], one["window"]["end"]) for one in channels]


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def dim(seed: int, shape: tuple[int, ...], high: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(high // 10, high, shape).astype(np.uint16)


@pytest.mark.parametrize("count", [1, 12])
def test_16_bit_channels_have_windows_of_their_values(tmp_path: Path, count: int) -> None:
    for n in range(count):
        pixels = np.stack([dim(n, (64, 80), 300), dim(n + 50, (64, 80), 4000)])
        pixels[:, 0, 0] = 65_535  # one hot pixel does not make the others black
        put(tmp_path / f"in/{n}.ome.tif", pixels, metadata={
            "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})  # fmt: skip
    (attributes,) = groups(ingest(tmp_path)).values()
    omero = attributes["ome"]["omero"]
    assert [one["label"] for one in omero["channels"]] == ["DAPI", "CD3"]
    assert [one["color"] for one in omero["channels"]] == ["0000FF", "00FF00"]
    assert all(one["active"] for one in omero["channels"])
    for (start, end), high in zip(windows(omero["channels"]), (300, 4000), strict=True):
        assert high // 10 <= start <= high // 9
        assert 0.98 * high <= end < high
    assert {(o["window"]["min"], o["window"]["max"]) for o in omero["channels"]} == {(0, 65_535)}
    yaozarrs.v05.Omero.model_validate(omero)


def test_colours_of_files_are_kept_and_8_bit_shows_all(tmp_path: Path) -> None:
    ome = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"], "Color": [-16776961, 65535, -1]}}
    put(tmp_path / "in/a.ome.tif", grey(1, (3, 32, 40)), metadata=ome)
    tables = [np.outer(rgb, np.arange(256)).astype(np.uint8) for rgb in ((0, 1, 1), (1, 0, 1))]
    tifffile.imwrite(tmp_path / "in/b.tif", grey(2, (2, 32, 40)), imagej=True, metadata={
        "axes": "CYX", "Labels": ["x", "y"], "LUTs": tables, "mode": "composite"})  # fmt: skip
    found = {}
    for attributes in groups(ingest(tmp_path)).values():
        channels = attributes["ome"]["omero"]["channels"]
        found[tuple(one["label"] for one in channels)] = [one["color"] for one in channels]
        assert {*windows(channels)} == {(0, 255)}
    assert found == {
        ("a", "b", "c"): ["FF0000", "0000FF", "00FF00"],
        ("x", "y"): ["00FFFF", "FF00FF"],
    }


def test_values_of_floats_and_of_planes_that_fail(tmp_path: Path) -> None:
    floats = np.linspace(-1, 1, 2 * 64 * 80, dtype=np.float32).reshape(2, 64, 80)
    floats[0, 0] = np.nan
    names = {"axes": "CYX", "Channel": {"Name": ["p", "q"]}}
    put(tmp_path / "in/a.ome.tif", floats, metadata=names)
    put(tmp_path / "in/b.ome.tif", np.full((2, 64, 80), np.nan, np.float32), metadata={
        **names, "Channel": {"Name": ["none", "at all"]}})  # fmt: skip
    attributes = groups(ingest(tmp_path)).values()
    (low, middle), (middle_2, high) = sorted(
        windows(next(a for a in attributes if "p" in str(a))["ome"]["omero"]["channels"])
    )
    assert -1 < low < -0.97
    assert max(abs(middle), abs(middle_2)) < 0.01
    assert 0.99 < high < 1
    empty = next(a for a in attributes if "at all" in str(a))["ome"]["omero"]["channels"]
    assert windows(empty) == [(0, 1), (0, 1)]


def test_napari_shows_channels_by_name_colour_and_window(tmp_path: Path) -> None:
    """`ome_zarr.reader` is what napari's plugin makes its layers of."""
    pixels = np.stack([dim(1, (64, 80), 300), dim(2, (64, 80), 4000)])
    put(tmp_path / "in/a.ome.tif", pixels, metadata={
        "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})  # fmt: skip
    cohort = ingest(tmp_path)
    (path,) = (tmp_path / "cohort/pixels").glob("*.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ome_zarr.io import parse_url
        from ome_zarr.reader import Reader

        shown = next(iter(Reader(parse_url(str(path)))())).metadata
    assert shown["channel_names"] == ["DAPI", "CD3"]
    assert shown["visible"] == [True, True]
    limits = shown["contrast_limits"]
    (attributes,) = groups(cohort).values()
    assert [*map(tuple, limits)] == windows(attributes["ome"]["omero"]["channels"])
    assert [colours[-1] for colours in shown["colormap"]] == [[0, 0, 1], [0, 1, 0]]


def test_a_plane_that_can_not_be_read_fails_alone_and_its_stack_is_whole(tmp_path: Path) -> None:
    put(tmp_path / "in/a.ome.tif", dim(1, (2, 64, 80), 300), compression="zlib", metadata={
        "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})  # fmt: skip
    data = bytearray((tmp_path / "in/a.ome.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "in/a.ome.tif") as file:
        start = file.pages[0].dataoffsets[0]
    data[start + 2 : start + 40] = bytes(38)
    (tmp_path / "in/a.ome.tif").write_bytes(data)
    put(tmp_path / "in/b.png", grey(3))
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    with here() as client:
        report = cohort.ingest(tmp_path / "in", client=client)
    assert (report.new, dict(report.reasons)) == (1, {"corrupt": 1})
    assert cohort.verify().problems == ()


def test_unnamed_images_have_no_display_and_other_names_another_stack(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / f"in/{n}.tif", dim(n, (2, 64, 80), 300), metadata={"axes": "CYX"})
    for n, name in enumerate(("CD3", "CD8")):
        put(tmp_path / f"in/{name}.ome.tif", dim(n + 9, (2, 64, 80), 300), metadata={
            "axes": "CYX", "Channel": {"Name": ["DAPI", name]}})  # fmt: skip
    cohort = ingest(tmp_path)
    labels = sorted(
        [one["label"] for one in attributes["ome"].get("omero", {"channels": ()})["channels"]]
        for attributes in groups(cohort).values()
    )
    assert labels == [[], ["DAPI", "CD3"], ["DAPI", "CD8"]]


def test_a_giant_image_of_cells_opens_with_its_channels(tmp_path: Path) -> None:
    """Windows of a giant image are those of its middle; each level of the pyramid is valid."""
    write_cells(tmp_path / "set", CellOptions(images=1, size=(2100, 2100), seed=3))
    (image_file,) = [p for p in (tmp_path / "set").rglob("*.tif") if "truth" not in p.parts]
    image_file.rename(make_folder(tmp_path / "in") / image_file.name)
    cohort = ingest(tmp_path, giant_bytes=1_000_000)
    ((_, attributes),) = groups(cohort).items()
    channels = attributes["ome"]["omero"]["channels"]
    assert [one["label"] for one in channels] == ["DAPI", "CD3"]
    image = cohort.images()[0]
    for one, (start, end) in zip(channels, windows(channels), strict=True):
        plane = image.sel(c=one["label"]).values
        inside = ((plane >= start) & (plane <= end)).mean()
        assert 0.98 < inside < 1 or (start, end) == (0, 255)


def test_metadata_are_made_again_also_after_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the catalog alone; a stack keeps its display, whatever its images are called now."""
    for n in range(9):
        put(tmp_path / f"in/{n}.ome.tif", dim(n, (2, 64, 80), 300 + n), metadata={
            "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})  # fmt: skip
    put(tmp_path / "in/plain.tif", dim(20, (2, 30, 40), 300), metadata={"axes": "CYX"})
    cohort = ingest(tmp_path)
    before = read_images(cohort.store)[1]
    toml = tmp_path / "cohort/cohort.toml"
    toml.write_text(toml.read_text().replace('in"\n', 'in"\nchannels = ["A", "B"]\n', 1))
    with here() as client:
        cohort.ingest(client=client, rehash=True)
    after = read_images(cohort.store)[1]
    assert after["stack"].to_pylist() == before["stack"].to_pylist()
    assert {*map(tuple, after["channel_names"].to_pylist())} == {("A", "B")}
    files = [tmp_path / "cohort" / row.path for row in read_shards(cohort.store) if row.shard < 0]
    whole = {path: path.read_bytes() for path in files}
    assert sum(b"omero" in data for data in whole.values()) == 1
    for path in files:
        path.unlink()
    with here() as client:
        cohort.ingest(client=client, rehash=True)
    assert {path: path.read_bytes() for path in files} == whole
    assert cohort.verify().problems == ()


def test_stacks_of_an_earlier_version_are_made_again_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the attribute ``channel_names``, and their images no display in the catalog."""
    put(tmp_path / "in/a.ome.tif", dim(1, (2, 64, 80), 300), metadata={
        "axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})  # fmt: skip
    with monkeypatch.context() as earlier:
        earlier.setattr("engine.ingest.driver.display_stacks", lambda _, plans, *a, **k: plans)
        cohort = ingest(tmp_path)
    ((_, attributes),) = groups(cohort).items()
    assert attributes["channel_names"] == ["DAPI", "CD3"]
    assert "omero" not in attributes["ome"]
    assert read_images(cohort.store)[1]["channel_names"].to_pylist() == [["DAPI", "CD3"]]
    (row,) = [r for r in read_shards(cohort.store) if r.shard < 0 and r.level < 0]
    path = tmp_path / "cohort" / row.path
    whole = path.read_bytes()
    toml = tmp_path / "cohort/cohort.toml"
    for renamed in (False, True):
        with here() as client:
            if renamed:
                told = toml.read_text().replace('in"\n', 'in"\nchannels = ["A", "B"]\n', 1)
                toml.write_text(told)
                cohort.ingest(client=client, rehash=True)
            path.unlink()
            cohort.ingest(client=client, rehash=True)
        assert path.read_bytes() == whole
    assert read_images(cohort.store)[1]["channel_names"].to_pylist() == [["A", "B"]]
    assert metadata.restore_metadata(cohort.store, []) == []
