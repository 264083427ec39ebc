"""Siemens mosaics: each slice is an image, in its place in the patient."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine.errors import SourceUnreadable
from engine.header import Header
from engine.privacy import KEY
from engine.sources import open_source
from engine.sources.dicom.mosaic import COUNT, NORMAL, read_csa
from tests.support.dicom import KEY as SECRET
from tests.support.dicom import make, uid
from tests.support.images import catalog

ROW, COLUMN = (1.0, 0.0, 0.0), (0.0, 0.8, -0.6)
NORMAL_OF = tuple(np.cross(ROW, COLUMN).tolist())
SPACING_MM, DISTANCE_MM, FIRST_MM = (2.0, 1.5), 3.0, np.array([-10.0, 4.0, 7.0])


def csa(**tags: list[str]) -> bytes:
    """Return a CSA header, version 2, as syngo writes it."""
    out = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        out += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 4, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            out += struct.pack("<4i", len(text), len(text), 77, len(text))
            out += text + b"\0" * (-len(text) % 4)
    return out


def volume(count: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 4000, (count, 6, 8)).astype(np.uint16)


def mosaic(
    slices: NDArray[np.uint16], *, normal: Any = NORMAL_OF, header: bytes | None = None, **tags: Any
) -> bytes:
    """Return a file with slices in the tiles of one frame."""
    count, height, width = slices.shape
    side = int(np.ceil(np.sqrt(count)))
    tiles = np.zeros((side * side, height, width), "<u2")
    tiles[:count] = slices
    frame = tiles.reshape(side, side, height, width).swapaxes(1, 2).reshape(side * height, -1)
    corner = FIRST_MM.copy()  # of one large slice around the same centre
    corner -= np.array(ROW) * SPACING_MM[1] * (frame.shape[1] - width) / 2
    corner -= np.array(COLUMN) * SPACING_MM[0] * (frame.shape[0] - height) / 2
    named = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        "ImagePositionPatient": corner.tolist(),
        "ImageOrientationPatient": [*ROW, *COLUMN],
        "PixelSpacing": list(SPACING_MM),
        "SpacingBetweenSlices": DISTANCE_MM,
        **tags,
    }
    ds = make(frame, **{n: v for n, v in named.items() if v is not None or n == "PixelSpacing"})
    if header is None:
        known = {"CANARY": ["CANARY"], COUNT: [str(count)], "Empty": [""]}
        header = csa(**known, **{NORMAL: [f"{v:.8f}" for v in normal]} if normal else {})
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", header + b"\0" * (len(header) % 2))
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def reason(content: bytes) -> tuple[str, str]:
    with pytest.raises(SourceUnreadable) as caught, open_source(io.BytesIO(content), "x"):
        pass
    assert "CANARY" not in str(caught.value)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("count", [1, 4, 5, 9, 11])
@pytest.mark.parametrize("way", [1.0, -1.0])
def test_slices_are_told_apart_and_lie_where_they_were(count: int, way: float) -> None:
    slices = volume(count)
    normal = tuple(way * v for v in NORMAL_OF)
    with open_source(io.BytesIO(mosaic(slices, normal=normal)), "x") as source:
        assert [plane.fragment for plane in source.planes] == [f"#{n}" for n in range(count)]
        for n, plane in enumerate(source.planes):
            found = plane.header
            assert isinstance(found, Header)
            assert plane.shape == (1, 6, 8)
            assert plane.spacing_um == (2000.0, 1500.0)
            due = FIRST_MM + n * DISTANCE_MM * np.array(normal)
            assert found.position_mm == pytest.approx(due, abs=1e-6)
            assert found.frame == n
            assert np.array_equal(source.read(n)[0], slices[n])
            assert "CANARY" not in repr(plane)


def test_a_mosaic_that_can_not_be_placed_is_refused_by_name() -> None:
    slices = volume(4)
    for content in (
        mosaic(slices, normal=None),
        mosaic(slices, SpacingBetweenSlices=None),
        mosaic(slices, PixelSpacing=None),
        mosaic(slices, normal=(1.0, 0.0, 0.0)),
        mosaic(slices, header=b""),
        mosaic(slices, header=csa(**{NORMAL: ["0", "0", "1"]})),
        mosaic(volume(11), header=csa(**{COUNT: ["26"], NORMAL: ["0", "0", "1"]})),
    ):
        code, said = reason(content)
        assert code == "unsupported"
        assert "Siemens mosaic" in said


@given(cut=st.integers(0, 900), flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255))))
@settings(max_examples=200, deadline=None)
def test_a_broken_csa_header_is_read_as_far_as_it_goes(
    cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(csa(**{"A": ["x"], COUNT: ["4"], NORMAL: ["0", "0", "1"]}))
    for at, value in flips:
        data[min(at, len(data) - 1)] = value
    for values in read_csa(bytes(data[: len(data) - cut]), (COUNT, NORMAL)).values():
        assert np.isfinite(values).all()


def test_mosaics_of_a_series_are_volumes_in_time(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    volumes = [volume(5, seed) for seed in range(3)]
    (tmp_path / "data").mkdir()
    for n, slices in enumerate(volumes):
        (tmp_path / "data" / f"{n}").write_bytes(
            mosaic(slices, InstanceNumber=n + 1, SOPInstanceUID=uid("mosaic", n))
        )
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.new, report.failed, dict(report.findings)) == (15, 0, {})
    rows = catalog(cohort).values()
    (stack,) = {row["stack"] for row in rows}
    pixels = cohort.stacks()[f"/{stack}/0"]["pixels"].values
    assert np.array_equal(pixels[:, 0], np.stack(volumes))
    assert {row["spacing_z_um"] for row in rows} == {3000.0}
