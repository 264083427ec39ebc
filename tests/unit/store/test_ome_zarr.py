"""Pixels at rest are OME-Zarr 0.5 to everyone else's readers."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
import yaozarrs
import zarr
from distributed import Client

import engine
from tests.support.images import catalog, grey, put


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[engine.Cohort, Any]:
    """A stack, a series and a giant with three levels."""
    place = tmp_path_factory.mktemp("ome")
    data = place / "data"
    for n in range(9):
        put(data / f"i{n}.png", grey(n))
    put(data / "rgb.png", grey(20, (40, 48, 3)))
    tifffile.imwrite(
        data / "series.ome.tif",
        grey(30, (2, 3, 32, 48), "uint16"),
        metadata={"axes": "TZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5},
    )
    tifffile.imwrite(data / "giant.tif", grey(40, (2500, 3001)), tile=(256, 256))
    cohort = engine.create(place / "cohort")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\n")
    assert cohort.ingest(data, client=client).failed == 0
    stacks = {
        kind: place / "cohort" / "pixels" / f"{catalog(cohort)[f'data/{name}']['stack']}.zarr"
        for kind, name in {
            "stack": "i0.png",
            "rgb": "rgb.png",
            "series": "series.ome.tif#0",
            "giant": "giant.tif",
        }.items()
    }
    return cohort, stacks


KINDS = ("stack", "rgb", "series", "giant")


@pytest.mark.parametrize("kind", KINDS)
def test_yaozarrs_accepts_it(made: Any, kind: str) -> None:
    path = made[1][kind]
    yaozarrs.validate_zarr_store(str(path))
    text = (path / "zarr.json").read_text()
    broken = json.loads(text)
    del broken["attributes"]["ome"]["multiscales"][0]["datasets"]
    with pytest.raises(Exception, match="datasets"):  # it would have said so
        yaozarrs.validate_ome_object(broken["attributes"]["ome"])


def test_yaozarrs_command_accepts_all(made: Any) -> None:
    command = Path(sys.executable).with_name("yaozarrs")
    for path in made[1].values():
        done = subprocess.run(
            [command, "validate", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_ome_zarr_models_accepts_it(made: Any, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ome_zarr_models import open_ome_zarr
        from ome_zarr_models.v05.image import Image

        image = open_ome_zarr(zarr.open_group(made[1][kind], mode="r"))
    assert isinstance(image, Image)
    axes = [axis.name for axis in image.attributes.ome.multiscales[0].axes]
    assert axes == list("tczyx" if kind == "series" else "tcyx")


@pytest.mark.parametrize("kind", KINDS)
def test_ome_zarr_py_reads_it(made: Any, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ome_zarr.io import parse_url
        from ome_zarr.reader import Reader

        nodes = list(Reader(parse_url(str(made[1][kind])))())
        levels = [np.asarray(level) for level in nodes[0].data]
    stack = made[1][kind].stem
    tree = made[0].stacks()[f"/{stack}"]
    assert len(levels) == len(tree.children)
    for n, level in enumerate(levels):
        assert np.array_equal(level, tree[str(n)]["pixels"].values)


@pytest.mark.parametrize("kind", KINDS)
def test_xarray_and_zarr_read_each_level(made: Any, kind: str) -> None:
    path = made[1][kind]
    tree = made[0].stacks()[f"/{path.stem}"]
    for name, node in tree.children.items():
        array = zarr.open_array(path / name, mode="r")
        assert array.metadata.dimension_names == node["pixels"].dims
        assert np.array_equal(array[...], node["pixels"].values)
    if kind != "giant":  # levels of different sizes are no one dataset
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = xr.open_zarr(path, consolidated=False)
        assert np.array_equal(opened["0"].values, tree["0"]["pixels"].values)
        assert opened["0"].dims == tree["0"]["pixels"].dims


def test_spacing_and_scales_are_in_the_metadata(made: Any) -> None:
    def multiscale(kind: str) -> dict[str, Any]:
        return json.loads((made[1][kind] / "zarr.json").read_text())["attributes"]["ome"][
            "multiscales"
        ][0]

    series = multiscale("series")
    assert series["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 1.0, 1.0, 0.5, 0.25]}
    ]
    assert series["axes"][-1] == {"name": "x", "type": "space", "unit": "micrometer"}
    giant = multiscale("giant")
    assert "unit" not in giant["axes"][-1]
    assert [d["path"] for d in giant["datasets"]] == ["0", "1", "2"]
    assert giant["datasets"][2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 1.0, 4.0, 4.0]},
        {"type": "translation", "translation": [0.0, 0.0, 1.5, 1.5]},
    ]
    assert giant["type"] == "mean"


def test_chunks_hold_one_image_and_carry_checksums(made: Any) -> None:
    for kind, path in made[1].items():
        metadata = json.loads((path / "0" / "zarr.json").read_text())
        (sharding,) = metadata["codecs"]
        inner = sharding["configuration"]
        last = inner["codecs"][-1]
        if kind == "series":  # of 16 bit: shuffled, and LZ4 has no checksum of its own
            assert last["name"] == "crc32c"
        else:
            assert last["configuration"]["checksum"] is True
        assert inner["index_codecs"][-1]["name"] == "crc32c"
        chunk, shape = inner["chunk_shape"], metadata["shape"]
        if kind == "giant":
            assert chunk == [1, 1, 512, 512]
        else:
            assert chunk == [1, shape[1], *[1] * (len(shape) - 4), *shape[-2:]]


def test_a_lost_shard_raises_in_every_reader_of_the_engine(client: Client, tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / "data" / f"i{n}.png", grey(n))
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    row = catalog(cohort)["data/i1.png"]
    path = tmp_path / "cohort" / "pixels" / f"{row['stack']}.zarr" / "0" / "c" / "1/0/0/0"
    path.unlink()
    lazy = cohort.stacks()[f"/{row['stack']}/0"]["pixels"]
    assert np.array_equal(lazy[0, 0].values, grey(0))
    with pytest.raises(engine.errors.MissingObject, match="1/0/0/0"):
        lazy.values  # noqa: B018 - reading is the point
    with pytest.raises(engine.errors.MissingObject):
        cohort.images()[1]
    assert np.array_equal(cohort.images()[2].values[0], grey(2))


def test_stacks_travel_to_workers(made: Any, client: Client) -> None:
    cohort, stacks = made
    pixels = cohort.stacks()[f"/{stacks['giant'].stem}/0"]["pixels"]
    due = float(grey(40, (2500, 3001)).mean())
    assert float(client.compute(pixels.data.mean()).result()) == pytest.approx(due)
    whole = grey(40, (2500, 3001))
    for y, x in [(slice(2000, 2100), slice(5, 9)), (slice(None, None, 7), 2050), (2499, slice(0))]:
        assert np.array_equal(pixels[0, 0, y, x].values, whole[y, x])
    assert np.array_equal(pixels[0, 0, ::-1000, [3, 2999]].values, whole[::-1000, [3, 2999]])
