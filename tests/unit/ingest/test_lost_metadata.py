"""Metadata of stacks that are lost or damaged are made again, byte by byte, or named."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

import engine
from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineOptions
from engine.store.catalog.tables import read_shards
from tests.support.images import grey, put
from tests.support.inprocess_client import here


def write_sources(folder: Path) -> None:
    """Write a stack whose last image fails, one of odd sizes, series, and a giant image."""
    for n in range(9):
        put(folder / f"a{n}.png", grey(n))
    last = folder / "a9.png"
    put(last, grey(9))
    last.write_bytes(last.read_bytes()[:-40])
    for n in range(3):
        put(folder / f"odd-{n}.png", grey(n, (70 + n, 90 - n)))
    tifffile.imwrite(folder / "giant.tif", grey(40, (2060, 2100)), tile=(256, 256))
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}, "PhysicalSizeX": 0.5,
             "PhysicalSizeY": 0.25}  # fmt: skip
    tifffile.imwrite(folder / "channels.ome.tif", grey(50, (2, 32, 48)), metadata=names)
    steps = {"axes": "TZYX", "PhysicalSizeZ": 3.0, "TimeIncrement": 2.0,
             "TimeIncrementUnit": "s", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}  # fmt: skip
    tifffile.imwrite(folder / "series.ome.tif", grey(30, (2, 3, 32, 48)), metadata=steps)


@pytest.mark.parametrize("kind", ["files", "dicom"])
def test_each_file_of_metadata_is_made_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    data = tmp_path / "in"
    if kind == "files":
        write_sources(data)
    else:
        pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install .[dicom]")
        write_cine(data, CineOptions(patients=1, slices=3, phases=2, size_px=120))
    cohort = engine.create(tmp_path / "cohort")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\n")
    with here() as client:
        cohort.ingest(data, client=client)
        rows = [row for row in read_shards(cohort.store) if row.shard < 0]
        assert len({row.stack for row in rows}) >= (5 if kind == "files" else 1)
        files = {tmp_path / "cohort" / row.path: row for row in rows}
        whole = {path: path.read_bytes() for path in files}
        for n, path in enumerate(files):
            if n % 2:
                path.unlink()
            else:
                path.write_bytes(whole[path].replace(b"0", b"1", 1))
            assert [p.path for p in cohort.verify().problems] == [files[path].path]
            report = cohort.ingest(client=client, rehash=True)
            assert report.lost == []
            assert path.read_bytes() == whole[path], path
            assert cohort.verify().problems == ()
        for path in files:
            path.unlink()
        for source in data.rglob("*.*"):  # the catalog suffices
            source.unlink()
        (data / "other.txt").touch()
        cohort.ingest(client=client, rehash=True)
        assert {path: path.read_bytes() for path in files} == whole
        assert cohort.verify().problems == ()
