"""Unit tests for the registry of formats: detection, and formats of installed packages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import engine
from engine import plugins
from engine.errors import SourceUnreadable
from engine.ingest.tasks import FileStamp, ProbeResult, SourceFile
from engine.ingest.worker import name_missing_format
from engine.sources import FORMATS, detect_format, open_source, registry
from jobs.messages.core import ingest_lines
from tests.support.images import grey
from tests.support.operations import count_searches, install_below

SQUARE = """
import numpy as np
from engine.sources import Format, Plane
from engine.sources.base import PlanesSource, read_at

class Square(PlanesSource):
    def __init__(self, file, side):
        super().__init__((Plane("", (1, side, side), "uint8"),))
        self._file = file

    def _decode(self, index):
        shape = self.planes[0].shape
        return np.frombuffer(read_at(self._file, 4, shape[1] ** 2), np.uint8).reshape(shape)

class Reader:
    def open(self, file, *, max_decoded_bytes):
        return Square(file, read_at(file, 3, 1)[0])

reader = Reader()
FORMAT = Format(lambda head: head.startswith(b"SQR"), (".czi", ".sqr"), __name__)
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    install_below(folder, points, plugins.FORMATS)
    (folder / f"square_{folder.name}.py").write_text(SQUARE)
    monkeypatch.syspath_prepend(folder)


def square(pixels: Any) -> bytes:
    return b"SQR" + bytes([len(pixels)]) + pixels.tobytes()


def never(*_: str) -> Any:
    raise AssertionError("packages were searched")


def test_files_of_built_in_formats_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "installed", never)
    registry._installed.cache_clear()
    assert detect_format("a", b"\x89PNG\r\n\x1a\n") == "png"
    assert detect_format("a.DCM", b"") == "dicom"


def test_packages_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count_searches(monkeypatch)
    install(tmp_path / "once", monkeypatch, square="square_once:FORMAT")
    assert [detect_format(f"{n}.txt", b"text") for n in range(9)] == [None] * 9
    assert detect_format("a.png", b"SQR\1\0") == "square"  # its first bytes before any suffix
    assert detect_format("a.sqr", b"") == "square"
    assert len(asked) == 1


def test_broken_packages_are_named_and_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    install(
        folder,
        monkeypatch,
        absent="there_is_no_such_module:FORMAT",
        angry="angry_format:FORMAT",
        number="angry_format:NUMBER",
        png="square_broken:FORMAT",
        square="square_broken:FORMAT",
        sulky="sulky_format:FORMAT",
    )
    (folder / "angry_format.py").write_text(
        "from engine.sources import Format\nNUMBER = 1\n"
        "FORMAT = Format(lambda head: head[2] > 0, ('.angry',), __name__)\n"
    )
    (folder / "sulky_format.py").write_text(
        "from engine.sources import Format\n"
        "FORMAT = Format(lambda head: 1 / (head[:4] != b'SQR\\2'), ('.sulky',), __name__)\n"
    )
    assert detect_format("a", square(np.eye(2, dtype=np.uint8))) == "square"
    said = {error.args[0]: str(error) for error in registry.broken_formats()}
    assert set(said) == {"absent", "angry", "number", "png"}
    assert "ModuleNotFoundError" in said["absent"]
    assert "angry_format:FORMAT" in said["angry"]
    assert "IndexError" in said["angry"]
    assert registry.formats()["png"] is FORMATS["png"]


def test_a_plate_in_ome_zarr_is_reported_as_not_read(tmp_path: Path, client: Client) -> None:
    """Also one that lacks wells that its metadata name."""
    wells = [{"path": f"A/{n}", "rowIndex": 0, "columnIndex": n - 1} for n in (1, 2)]
    plate = {"rows": [{"name": "A"}], "columns": [{"name": "1"}, {"name": "2"}], "wells": wells}
    folder = tmp_path / "data/plate.zarr"
    group = zarr.create_group(folder, attributes={"ome": {"version": "0.5", "plate": plate}})
    well = group.create_group("A/1", attributes={"ome": {"well": {"images": [{"path": "0"}]}}})
    well.create_array("0/0", data=grey(1, (1, 1, 1, 32, 32)))
    report = engine.create(tmp_path / "cohort").ingest(tmp_path / "data", client=client)
    assert (report.new, report.failed) == (0, 0)
    assert report.untaken["zarr.json"] >= 3
    (told,) = (line for line in ingest_lines(report) if "formats not read here" in line)
    assert "zarr.json" in told


def test_a_format_of_a_package_is_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """Suffixes that no built-in format claims are reported only if no package claims them."""
    pixels = grey(1, (32, 32))
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.czi").write_bytes(square(pixels))
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(data, client=client)
    assert (report.new, report.failed, report.untaken) == (0, 0, {".czi": 1})

    install(tmp_path / "package", monkeypatch, square="square_package:FORMAT")
    report = cohort.ingest(data, client=client)
    assert (report.new, report.failed, report.untaken) == (1, 0, {})
    assert np.array_equal(cohort.images()[0].values, pixels[None])


def test_only_ignored_files_of_known_suffixes_lack_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "here", monkeypatch, square="square_here:FORMAT")
    file = SourceFile("data/a.sqr", "/data", "a.sqr", FileStamp(1, 1, 1))
    assert name_missing_format(ProbeResult(file)).reason == "not_installed"
    for probe in (
        ProbeResult(file, withheld=True),
        ProbeResult(file, claimed=True),
        ProbeResult(file, reason="corrupt"),
        ProbeResult(SourceFile("data/a.txt", "/data", "a.txt", FileStamp(1, 1, 1))),
    ):
        assert name_missing_format(probe) is probe


def test_a_suffix_without_its_first_bytes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "suffix", monkeypatch, square="square_suffix:FORMAT")
    with pytest.raises(SourceUnreadable) as caught:
        open_source(io.BytesIO(b"no square"), "a.sqr")
    assert caught.value.reason == "not_an_image"
