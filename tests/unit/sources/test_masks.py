"""Masks and layers that people drew: the rules, and the errors for what breaks them."""

from __future__ import annotations

import errno
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.kernels.segmentation.tissue import Tissue
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowSlide
from engine.sources import psd
from engine.sources.failures import DiskFile
from engine.sources.mask_images import AnnotationError, read_mask, read_mask_folders
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


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("behind", [0, 30, 5000])
def test_what_a_disk_says_of_a_psd_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, behind: int
) -> None:
    """Also where psd-tools makes another error of it, or none."""
    pytest.importorskip("psd_tools", reason=PSD_REASON)
    options = MarrowOptions(images=1, size=(260, 180), scale=0.4, seed=3, format="psd")
    write_marrow(tmp_path, options)
    path = tmp_path / "slides/s1/slide-001.psd"

    class Bad(DiskFile):
        def readinto(self, buffer: Any) -> int | None:
            left = behind - self.tell()
            if left <= 0:
                self.failure = self.failure or OSError(number, "of the disk")
                raise OSError(number, "of the disk")
            return super().readinto(memoryview(buffer)[: min(len(buffer), left)])

    monkeypatch.setattr("engine.sources.failures.DiskFile", Bad)
    with pytest.raises(AnnotationError, match=errno.errorcode[number]):
        read_psd(path)


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


def boxes() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    bone, fat = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    bone[10:30, 10:30] = True
    fat[40:50, 40:50] = True
    return bone, fat


def test_bool_masks_are_what_numpy_had(tmp_path: Path) -> None:
    """tifffile, and what writes with it, calls numpy's bool WhiteIsZero and stores it as it is."""
    for write in (
        lambda path, mask: tifffile.imwrite(path, mask),
        lambda path, mask: tifffile.imwrite(path, mask, compression="zlib", metadata=None),
        lambda path, mask: tifffile.imwrite(path, mask, photometric="minisblack"),
        lambda path, mask: Image.fromarray(mask).save(path),
        lambda path, mask: Image.fromarray(mask).save(path, compression="group4"),
    ):
        for mask, name in zip(boxes(), ("bone", "fat"), strict=True):
            path = tmp_path / name / "a.tif"
            path.parent.mkdir(exist_ok=True)
            write(path, mask)
            np.testing.assert_array_equal(read_mask(path, mask.shape), mask)
        labels = read_mask_folders(tmp_path, "a", (64, 64))
        assert np.bincount(labels.ravel()).tolist() == [64 * 64 - 500, 400, 100]


def test_white_as_zero_is_read_as_shown_where_a_program_is_named_else_refused(
    tmp_path: Path,
) -> None:
    mask = boxes()[0]
    path = tmp_path / "a.tif"
    white = {"photometric": "miniswhite", "metadata": None}
    tifffile.imwrite(path, ~mask, software="ImageMagick", **white)
    np.testing.assert_array_equal(read_mask(path), mask)
    # ImageJ's inverting tables mark what is shown black, scanners what is shown white.
    grey = mask.astype(np.uint8)
    for pixels, program in (
        (mask, ""), (mask.astype(np.float32), ""), (mask.astype(np.int16), ""),
        (grey * 255, ""), (255 - grey * 255, "tifffile.py"), (grey * np.uint16(65535), "scan"),
        (grey, "ImageMagick"),
    ):  # fmt: skip
        tifffile.imwrite(path, pixels, software=program, **white)
        with pytest.raises(AnnotationError, match="programs differ"):
            read_mask(path)
    imagej = {"description": "ImageJ=1.54f\n", "photometric": "miniswhite", "metadata": None}
    tifffile.imwrite(path, grey * 255, **imagej)
    with pytest.raises(AnnotationError, match="black as zero"):
        read_mask(path)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "jpg", "png"])
def test_masks_of_turned_images(turned: int, kind: str, tmp_path: Path) -> None:
    """What fits one way only is laid on so; what fits in two is refused, and nothing is guessed."""
    stored = np.zeros(SHAPE, np.uint8)
    stored[5:12, 30:55] = 255
    exif = Image.Exif()
    exif[0x0112] = turned
    image = io.BytesIO()
    Image.fromarray(stored).save(image, "TIFF", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(image)))
    path = tmp_path / f"mask.{kind}"
    options = {"quality": 95} if kind == "jpg" else {}
    # The mask is turned as its image is.
    Image.fromarray(stored).save(path, exif=exif, **options)
    np.testing.assert_array_equal(read_mask(path, SHAPE, turned), stored > 0)
    # It was drawn on what a viewer showed, or on what is stored, and says nothing.
    for pixels in (shown, stored):
        Image.fromarray(pixels).save(path, **options)
        if turned == 1 or turned >= 5:
            np.testing.assert_array_equal(read_mask(path, SHAPE, turned), stored > 0)
        else:
            with pytest.raises(AnnotationError, match="shown turned"):
                read_mask(path, SHAPE, turned)
    Image.fromarray(stored[:, :-1]).save(path, **options)
    with pytest.raises(AnnotationError, match="draw on the image"):
        read_mask(path, SHAPE, turned)
    square = np.zeros((50, 50), np.uint8)
    Image.fromarray(square).save(path, **options)
    if turned > 1:
        with pytest.raises(AnnotationError, match="shown turned"):
            read_mask(path, square.shape, turned)


def test_files_of_several_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, *SHAPE), np.uint8), photometric="minisblack")
    with pytest.raises(AnnotationError, match="holds 3 images"):
        read_mask(path, SHAPE)


@dataclass
class Shape:
    """What psd-tools gives of a layer that is cut by a shape, which it does not write itself."""

    rendered: bool
    combined: bool
    off: bool = False
    name: str = "Shape 1"
    top: int = 0
    left: int = 0
    height: int = 64
    width: int = 64
    bbox: tuple[int, ...] = (0, 0, 64, 64)
    disabled: bool = False
    background_color: int = 0

    @property
    def mask(self) -> Shape | None:
        return self if self.rendered or self.combined else None

    @property
    def vector_mask(self) -> Any:
        return SimpleNamespace(disabled=self.off)

    @property
    def flags(self) -> Any:
        return SimpleNamespace(user_mask_from_render=self.rendered)

    def has_mask(self) -> bool:
        return self.mask is not None

    def has_vector_mask(self) -> bool:
        return True

    def has_real(self) -> bool:
        return self.combined

    def numpy(self, what: str) -> NDArray[np.float32] | None:
        return np.ones((64, 64, 3), np.float32) if what == "color" else None

    def topil(self) -> Image.Image:
        return Image.fromarray(boxes()[0])


def test_masks_of_shapes(tmp_path: Path) -> None:
    """A shape's own mask is no drawn one; with a drawn one beside it, it is; without pixels, no."""
    bone = boxes()[0]
    for shape, tissue in ((Shape(True, False), Tissue.BONE), (Shape(False, True), Tissue.FAT)):
        layers = [Shape(False, False, off=True), shape]
        masks = psd._masks(tmp_path, layers, None, (64, 64))
        np.testing.assert_array_equal(masks[tissue], bone)
    with pytest.raises(AnnotationError, match="rasterize"):
        psd._masks(tmp_path, [Shape(False, False)] * 2, None, (64, 64))


def layered(path: Path, mode: str, layers: list[tuple[str, Any, Any]]) -> Path:
    """Write a PSD: a slide, then layers of (name, RGBA pixels, mask or None)."""
    psd_tools = pytest.importorskip("psd_tools", reason=PSD_REASON)
    image = psd_tools.PSDImage.new(mode, (64, 64))
    slide = Image.fromarray(np.full((64, 64, 3), 230, np.uint8))
    image.create_pixel_layer(slide, name="slide")
    for name, pixels, mask in layers:
        layer = image.create_pixel_layer(Image.fromarray(pixels), name=name)
        if mask is not None:
            if layer.has_mask():
                layer.remove_mask()
            layer.create_mask(Image.fromarray(mask.astype(np.uint8) * 255))
    image.save(path)
    return path


def painted(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[mask] = (200, 30, 30, 255)
    return pixels


ALL, FILL = np.ones((64, 64), bool), np.full((64, 64, 4), (9, 200, 9, 255), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("names", [("bone", "fat"), ("Layer 3", "Layer 4")])
def test_masks_that_a_program_adds_are_none(
    mode: str, names: tuple[str, str], tmp_path: Path
) -> None:
    """In RGB, psd-tools makes a mask of what is transparent, for every layer."""
    bone, fat = boxes()
    path = layered(tmp_path / "a.psd", mode, [
        ("foreground", painted(ALL), None),
        (names[0], painted(bone), None),
        (names[1], FILL, fat),
    ])  # fmt: skip
    found = np.bincount(read_psd(path).labels.ravel()).tolist()
    assert found == [0, 400, 100, 64 * 64 - 500]
    # A mask that hides nothing was not drawn, either.
    path = layered(tmp_path / "b.psd", mode, [
        ("foreground", painted(ALL), ALL), (names[0], painted(bone), bone), (names[1], FILL, fat),
    ])  # fmt: skip
    assert np.bincount(read_psd(path).labels.ravel()).tolist() == found


def test_names_of_layers_count_before_their_masks(tmp_path: Path) -> None:
    bone, fat = boxes()
    path = layered(tmp_path / "a.psd", "RGB", [
        ("tissue", painted(ALL), None), ("Bone copy 2", FILL, bone), (" FAT 1", painted(fat), None),
        ("bone marrow", FILL, fat), ("whatever", painted(bone), None),
    ])  # fmt: skip
    assert np.bincount(read_psd(path).labels.ravel()).tolist()[1:3] == [400, 100]


def test_masks_that_do_not_tell_fat_from_bone_are_said(tmp_path: Path) -> None:
    bone, fat = boxes()
    path = layered(tmp_path / "a.psd", "RGBA", [
        ("a", FILL, bone | fat), ("b", FILL, bone), ("c", FILL, fat),
    ])  # fmt: skip
    with pytest.raises(AnnotationError, match="do not tell fat from bone"):
        read_psd(path)
    named = {"a": Tissue.OTHER, "b": Tissue.BONE, "c": Tissue.FAT}
    assert np.bincount(read_psd(path, named).labels.ravel()).tolist()[1:3] == [400, 100]


@pytest.mark.parametrize("mode", [0, 2, 4, 7, 9])
def test_other_colours_of_psd_are_named(mode: int, tmp_path: Path) -> None:
    """Bitmap, indexed, CMYK, multichannel, Lab: three numbers are not always red, green, blue."""
    path = layered(tmp_path / "a.psd", "RGBA", [("foreground", painted(ALL), None)] * 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:24] + struct.pack(">H", mode) + whole[26:])
    with pytest.raises(AnnotationError, match="neither grey nor RGB"):
        read_psd(path)
