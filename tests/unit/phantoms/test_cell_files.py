"""Files of cells: OME-TIFF as others read it, of any size, and ingested by the real command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

import engine
from engine.phantoms.cells import tiff_file
from engine.phantoms.cells.files import write_cells
from engine.phantoms.cells.options import CellOptions, field_path
from jobs.cli import app

TOP = Path(__file__).resolve().parents[3]

MOST_MB = 600

PROGRAM = r"""
import re, sys
from pathlib import Path
from engine.phantoms.cells.files import write_cells
from engine.phantoms.cells.options import CellOptions
write_cells(sys.argv[1], CellOptions(images=1, size=(int(sys.argv[2]), int(sys.argv[3]))))
# Not ru_maxrss, which begins with that of the process that forked this one.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def test_fields_are_ome_tiff(tmp_path: Path) -> None:
    options = CellOptions(images=1, size=(600, 300), channels=("DAPI <1>", 'say "x"'))
    write_cells(tmp_path, options)
    with tifffile.TiffFile(tmp_path / f"images/{field_path(0)}.tif") as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        (series,) = tiff.series
        assert (series.axes, series.shape) == ("CYX", (2, 600, 300))
        assert series.dtype == np.uint16
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.is_tiled
        root = ElementTree.fromstring(tiff.ome_metadata or "")
        (pixels,) = root.findall("{*}Image/{*}Pixels")
        names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
        assert names == ["DAPI <1>", 'say "x"']
        for axis in "XY":
            assert pixels.get(f"PhysicalSize{axis}") == "0.325"
            assert pixels.get(f"PhysicalSize{axis}Unit") == "µm"
        number, per = page.tags["XResolution"].value
        assert number / per == pytest.approx(10_000 / 0.325)
    with tifffile.TiffFile(tmp_path / f"truth/masks/{field_path(0)}.tif") as tiff:
        assert (tiff.series[0].axes, tiff.series[0].shape) == ("YX", (600, 300))
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"field-001.ome.tif", "objects.csv", "subjects.csv", "phantom.json"}


def test_large_files_are_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = CellOptions(images=1, size=(70, 80))
    write_cells(tmp_path / "classic", options)
    monkeypatch.setattr(tiff_file, "LARGEST_CLASSIC_BYTES", 100)
    write_cells(tmp_path / "big", options)
    path = f"images/{field_path(0)}.tif"
    with tifffile.TiffFile(tmp_path / "big" / path) as tiff:
        assert tiff.is_bigtiff
        np.testing.assert_array_equal(tiff.asarray(), tifffile.imread(tmp_path / "classic" / path))


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    broken = tiff_file.TiledTiff(path, (600, 20), 0.5, ("a",), np.uint16)
    with pytest.raises(ValueError, match="broadcast"), broken:
        broken.write([np.ones((600, 20))])
    assert list(tmp_path.iterdir()) == []
    with tiff_file.TiledTiff(path, (600, 20), 0.5, ("a",), np.uint16) as file:
        file.write([np.full((512, 20), 3)])
        file.write([np.full((88, 20), 4)])
    assert [place.name for place in tmp_path.iterdir()] == ["a.ome.tif"]
    np.testing.assert_array_equal(tifffile.imread(path)[:, 7], [3] * 512 + [4] * 88)


def test_a_wide_field_needs_little_memory(tmp_path: Path) -> None:
    """Peak memory of a process that writes 12,000 px wide bands, of which no more than one is held.

    `test_memory_does_not_depend_on_the_height` shows that more bands need no more.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "wide"), "1100", "12000"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(TOP)},
    )  # fmt: skip
    assert float(done.stdout) < MOST_MB
    mask = tifffile.imread(tmp_path / f"wide/truth/masks/{field_path(0)}.tif")
    table = pd.read_csv(tmp_path / "wide/truth/objects.csv")
    np.testing.assert_array_equal(np.bincount(mask.ravel())[1:], table["area_px"])


def test_the_printed_command_ingests_the_fields_and_no_truth(tmp_path: Path) -> None:
    made = tmp_path / "made"
    arguments = ["phantom", "cells", str(made), "--images", "4", "--size", "150x128"]
    done = CliRunner().invoke(app, [*arguments, "--seed", "3", "--spacing-um", "0.5"])
    assert done.exit_code == 0, done.output
    (command,) = re.findall(r"Next: cohort (.*)", done.output)
    cohort = tmp_path / "C"
    steps = shlex.split(command.replace("COHORT", str(cohort)))
    program = [sys.executable, "-m", "jobs.start", *steps, "--workers", "1"]
    subprocess.run(program, cwd=TOP, check=True)
    images = engine.open(cohort).images()
    truth = pd.read_csv(made / "truth/objects.csv")
    assert len(images) == 4
    for number in range(4):
        path = f"{field_path(number)}.tif"
        (image,) = (one for one in images if one.attrs["source"] == f"images/{path}")
        np.testing.assert_array_equal(image, tifffile.imread(made / "images" / path))
        assert image.dims == ("c", "y", "x")
        assert image.attrs["spacing_um"] == (0.5, 0.5)
        columns = ["date", "subject", "experiment", "name"]
        joined = (truth[columns] == [image.attrs[column] for column in columns]).all(axis=1)
        mask = tifffile.imread(made / "truth/masks" / path)
        assert joined.sum() == mask.max() > 0


def test_the_command_says_where_all_is(tmp_path: Path) -> None:
    arguments = ["phantom", "cells", str(tmp_path / "made"), "--images", "1", "--size", "64"]
    done = CliRunner().invoke(app, [*arguments, "--channels", "Hoechst,CD8", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(pd.read_csv(report["truth"]))[-3:] == ["mean_Hoechst", "mean_CD8", "class"]
    assert set(pd.read_csv(report["subjects"])["group"]) == {"control"}
    for wrong in (["--channels", "DAPI"], ["--spacing-um", "9"], ["--size", "5"]):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert refused.exit_code == 2
        assert wrong[0] in refused.output
