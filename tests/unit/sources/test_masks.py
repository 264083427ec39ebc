"""Masks and layers that people drew: the rules, and the errors for what breaks them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.kernels.tissue import Tissue
from engine.phantoms.marrow import MarrowSlide
from engine.phantoms.marrow_options import MarrowOptions
from engine.phantoms.marrow_writing import write_marrow
from engine.sources.masks import AnnotationError, read_mask, read_mask_folders
from engine.sources.psd import read_psd

SHAPE = (40, 60)
BOX = (slice(10, 30), slice(20, 50))


def drawn(kind: str) -> NDArray[Any]:
    """Return pixels (y, x) or (y, x, c) of a file in which a person marked the box."""
    inside = np.zeros(SHAPE, bool)
    inside[BOX] = True
    grey = np.where(inside, 255, 0).astype(np.uint8)
    if kind == "grey":
        return grey
    if kind == "0 and 1":
        return inside.astype(np.uint8)
    if kind == "16 bit":
        return grey.astype(np.uint16) * 257
    if kind == "RGB":
        return np.dstack([grey] * 3)
    if kind == "opaque RGBA":
        return np.dstack([*[grey] * 3, np.full(SHAPE, 255, np.uint8)])
    if kind == "black on transparent":
        return np.dstack([*[np.zeros_like(grey)] * 3, grey])
    if kind == "grey and alpha":
        return np.dstack([np.zeros_like(grey), grey])
    if kind == "soft":
        soft = np.pad(grey[BOX].astype(np.float64), 2)
        soft = (soft[1:-1, 1:-1] + soft[1:-1, :-2] + soft[:-2, 1:-1] + soft[2:, 1:-1]) / 4
        out = np.zeros(SHAPE, np.uint8)
        out[9:31, 19:51] = soft
        return out
    raise AssertionError(kind)


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "grey",
        "0 and 1",
        "16 bit",
        "RGB",
        "opaque RGBA",
        "black on transparent",
        "grey and alpha",
    ],
)
def test_masks_of_all_kinds_mark_the_same(kind: str, tmp_path: Path) -> None:
    expected = np.zeros(SHAPE, bool)
    expected[BOX] = True
    found = read_mask(save(tmp_path / "mask.png", drawn(kind)), SHAPE)
    np.testing.assert_array_equal(found, expected)


def test_a_soft_edge_is_cut_at_half(tmp_path: Path) -> None:
    pixels = drawn("soft")
    found = read_mask(save(tmp_path / "mask.png", pixels), SHAPE)
    np.testing.assert_array_equal(found, pixels >= 128)
    assert ((pixels > 0) & ~found).any(), "there was an edge to cut"


def test_masks_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.png", drawn("grey"))
    with pytest.raises(AnnotationError, match="40 x 60 px, its image 41 x 60"):
        read_mask(mask, (41, 60))
    with pytest.raises(AnnotationError, match="no mask there"):
        read_mask(tmp_path / "none.png")
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(AnnotationError, match="unreadable as a mask"):
        read_mask(mask)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    boxes = {"bone": slice(5, 15), "Fat": slice(12, 25), "other": slice(0, 35)}
    for name, rows in boxes.items():
        mask = np.zeros(SHAPE, np.uint8)
        mask[rows, 5:50] = 255
        save(tmp_path / name / "s1" / "a.png", mask)
    return tmp_path


def test_folders_of_masks_become_labels(folders: Path) -> None:
    labels = read_mask_folders(folders, "s1/a", SHAPE)
    column = labels[:, 20]
    assert column[[0, 5, 12, 24, 25, 34, 35]].tolist() == [3, 1, 2, 2, 3, 3, 0]
    assert (labels[:, :5] == 0).all()
    other = read_mask_folders(folders, "s1/a", SHAPE, fat_over_bone=False)
    assert other[12:15, 20].tolist() == [1, 1, 1]


def test_folders_that_lack_something_are_named(folders: Path) -> None:
    with pytest.raises(AnnotationError, match="no mask for s1/b"):
        read_mask_folders(folders, "s1/b", SHAPE)
    save(folders / "bone" / "s1" / "a.png", np.zeros(SHAPE, np.uint8))
    with pytest.raises(AnnotationError, match=r"marks nothing\. If the slide has no bone"):
        read_mask_folders(folders, "s1/a", SHAPE)
    labels = read_mask_folders(folders, "s1/a", SHAPE, may_be_empty=[Tissue.BONE])
    assert set(np.unique(labels)) == {0, 2, 3}
    for name in ("Fat", "other"):
        save(folders / name / "s1" / "a.png", np.zeros(SHAPE, np.uint8))
    with pytest.raises(AnnotationError, match="all masks"):
        read_mask_folders(folders, "s1/a", SHAPE, may_be_empty=list(Tissue))
    (folders / "Fat" / "s1" / "a.tif").write_bytes(b"two of them")
    with pytest.raises(AnnotationError, match="2 masks"):
        read_mask_folders(folders, "s1/a", SHAPE, may_be_empty=list(Tissue))
    with pytest.raises(AnnotationError, match="no folder 'bone'"):
        read_mask_folders(folders / "Fat", "s1/a", SHAPE)


def test_phantoms_masks_are_their_labels(tmp_path: Path) -> None:
    options = MarrowOptions(images=1, size=(200, 160), scale=0.4, seed=3)
    write_marrow(tmp_path, options)
    labels = read_mask_folders(tmp_path / "masks", "s1/slide-001", options.size)
    np.testing.assert_array_equal(labels, MarrowSlide(options, 0).whole().labels)


PSD_REASON = "psd-tools is not installed: pip install .[slides]"


def test_a_layered_phantom_reads_as_it_was_drawn(tmp_path: Path) -> None:
    pytest.importorskip("psd_tools", reason=PSD_REASON)
    options = MarrowOptions(images=1, size=(260, 180), scale=0.4, seed=3, format="psd")
    write_marrow(tmp_path, options)
    path = tmp_path / "slides/s1/slide-001.psd"
    truth = MarrowSlide(options, 0).whole()
    assert len(np.unique(truth.labels)) == 4
    found = read_psd(path)
    np.testing.assert_array_equal(found.labels, truth.labels)
    np.testing.assert_array_equal(found.pixels, truth.pixels)
    named = {"Bone": Tissue.BONE, "FAT": Tissue.FAT, "foreground": Tissue.OTHER}
    np.testing.assert_array_equal(read_psd(path, named).labels, truth.labels)
    only_bone = read_psd(path, {"bone": Tissue.BONE}).labels
    np.testing.assert_array_equal(only_bone == 1, truth.labels == 1)
    with pytest.raises(AnnotationError, match="nothing is marked as fat"):
        read_psd(path, {"bone": Tissue.BONE, "adipocytes": Tissue.FAT})
    with pytest.raises(AnnotationError, match="too_large"):
        read_psd(path, max_decoded_bytes=1000)


def test_layers_may_lie_anywhere_and_in_groups(tmp_path: Path) -> None:
    psd_tools = pytest.importorskip("psd_tools", reason=PSD_REASON)
    from PIL import Image

    def layer(box: tuple[int, int], alpha: int = 255) -> Any:
        return Image.fromarray(np.full((*box, 4), alpha, np.uint8))

    image = psd_tools.PSDImage.new("RGBA", SHAPE[::-1])
    image.create_pixel_layer(Image.fromarray(np.full((*SHAPE, 3), 77, np.uint8)), name="slide")
    image.create_pixel_layer(layer((30, 50)), name="tissue", top=5, left=5)
    group = image.create_group(name="drawn")
    # Beyond the canvas, and as faint as does not count.
    inside = group.create_pixel_layer(layer((20, 20)), name="bone", top=-10, left=50)
    faint = group.create_pixel_layer(layer((10, 10), 100), name="not meant", top=20, left=10)
    fat = group.create_pixel_layer(layer((20, 20)), name="fat", top=12, left=12)
    fat.create_mask(Image.fromarray(np.full((6, 6), 255, np.uint8)), top=15, left=15)
    assert [inside.name, faint.name] == ["bone", "not meant"]
    image.save(tmp_path / "a.psd")
    found = read_psd(tmp_path / "a.psd")
    expected = np.zeros(SHAPE, np.uint8)
    expected[5:35, 5:55] = 3
    expected[:10, 50:] = 1
    expected[15:21, 15:21] = 2
    np.testing.assert_array_equal(found.labels, expected)
    assert (found.pixels == 77).all()


def test_files_that_are_no_annotated_slides_are_named(tmp_path: Path) -> None:
    psd_tools = pytest.importorskip("psd_tools", reason=PSD_REASON)
    from PIL import Image

    path = tmp_path / "a.psd"
    with pytest.raises(AnnotationError, match="no file there"):
        read_psd(path)
    path.write_bytes(b"no PSD")
    with pytest.raises(AnnotationError, match="first bytes"):
        read_psd(path)
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 200_000, 200_000, 8, 3)
    path.write_bytes(header + bytes(100))
    with pytest.raises(AnnotationError, match="too_large"):
        read_psd(path)
    image = psd_tools.PSDImage.new("RGBA", SHAPE[::-1])
    image.create_pixel_layer(Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)), name="slide")
    image.save(path)
    with pytest.raises(AnnotationError, match="1 layers"):
        read_psd(path)
    whole = path.read_bytes()
    for cut in (30, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(AnnotationError):
            read_psd(path)
