"""Masks in colours: labels of palettes are read, and what may mean two things is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.sources.mask_images import AnnotationError, read_mask, read_mask_folders
from tests.unit.sources.test_masks import BOX, SHAPE, boxes, save


def voc_palette() -> list[int]:
    """Return PASCAL VOC's palette: the bits of a label, dealt out to red, green and blue."""
    return [
        sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for label in range(256)
        for channel in range(3)
    ]


def save_indexed(path: Path, indices: NDArray[Any], palette: list[int], **options: Any) -> Path:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


RED_ON_WHITE, RED_ON_BLACK = [255, 255, 255, 200, 0, 0], [0, 0, 0, 200, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("label", "palette"),
    [
        (1, RED_ON_WHITE),
        (1, RED_ON_BLACK),
        (1, [0, 0, 0, 0, 0, 60]),  # dark
        (15, voc_palette()),
        (100, voc_palette()),
        (7, voc_palette()),  # a grey of 128
    ],
)
def test_a_palette_of_colours_is_read_by_its_labels(
    label: int, palette: list[int], suffix: str, tmp_path: Path
) -> None:
    mask = boxes()[0]
    path = save_indexed(tmp_path / f"a.{suffix}", mask * label, palette)
    np.testing.assert_array_equal(read_mask(path, mask.shape), mask)
    nothing = save_indexed(tmp_path / f"b.{suffix}", mask * 0, palette)
    assert not read_mask(nothing).any()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits_and_interlaced_ones(bits: int, tmp_path: Path) -> None:
    mask, label = boxes()[0], 2**bits - 1
    palette = [255, 255, 255] + [10, 90, 30] * label
    path = save_indexed(tmp_path / "a.png", mask * label, palette, bits=bits)
    assert path.read_bytes()[24:26] == bytes([bits, 3])
    np.testing.assert_array_equal(read_mask(path), mask)
    table = np.array(palette, np.uint16).reshape(-1, 3).T * 257
    table = np.pad(table, ((0, 0), (0, 256 - table.shape[1])))
    tifffile.imwrite(tmp_path / "a.tif", mask * np.uint8(label), colormap=table, tile=(32, 32))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), mask)


def test_folders_of_masks_with_palettes(tmp_path: Path) -> None:
    for mask, name in zip(boxes(), ("bone", "fat"), strict=True):
        save_indexed(tmp_path / name / "a.png", mask, RED_ON_WHITE)
    labels = read_mask_folders(tmp_path, "a", (64, 64))
    assert np.bincount(labels.ravel()).tolist() == [64 * 64 - 500, 400, 100]


def test_palettes_of_greys_are_as_shown(tmp_path: Path) -> None:
    mask = boxes()[0]
    path = save_indexed(tmp_path / "a.png", ~mask, [255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(path), mask)
    ramp = [value for value in range(256) for _ in range(3)]
    soft = np.where(mask, 200, 60)
    np.testing.assert_array_equal(read_mask(save_indexed(path, soft, ramp)), mask)


def test_palettes_with_a_transparent_ground_mark_what_is_painted(tmp_path: Path) -> None:
    mask = boxes()[0]
    palette = [0, 0, 0, 200, 0, 0, 0, 200, 0]
    path = save_indexed(tmp_path / "a.png", mask, palette, transparency=0)
    np.testing.assert_array_equal(read_mask(path), mask)
    swapped = save_indexed(path, ~mask, [200, 0, 0, 0, 0, 0], transparency=1)
    np.testing.assert_array_equal(read_mask(swapped), mask)
    two = mask + 2 * boxes()[1]
    with pytest.raises(AnnotationError, match="2 labels"):
        read_mask(save_indexed(path, two, palette, transparency=0))


def test_labels_that_may_mean_two_things_are_refused(tmp_path: Path) -> None:
    bone, fat = boxes()
    path = tmp_path / "a.png"
    for labels in (bone + 2 * fat, np.where(fat, 255, bone)):  # 255 is VOC's border
        with pytest.raises(AnnotationError, match="2 labels"):
            read_mask(save_indexed(path, labels, voc_palette()))
    with pytest.raises(AnnotationError, match="label 0 of its palette has a colour"):
        read_mask(save_indexed(path, ~bone, [200, 0, 0, 255, 255, 255]))
    # Grey labels are below half of full scale: they would mark nothing.
    for values in (bone * np.uint8(3), bone * np.uint8(1) + fat * np.uint8(2)):
        with pytest.raises(AnnotationError, match=r"its largest value is [23]"):
            read_mask(save(path, values))
    tifffile.imwrite(tmp_path / "a.tif", bone * np.uint16(255))
    with pytest.raises(AnnotationError, match="half of 65535"):
        read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "RGBA", "16 bit"])
def test_masks_in_colours_are_refused_and_grey_ones_are_not(
    ground: int, kind: str, tmp_path: Path
) -> None:
    mask = boxes()[0]
    path = tmp_path / f"a.{kind if len(kind) == 3 else 'png'}"
    for colour in ((220, 20, 30), (0, 160, 0), (250, 250, 0)):
        pixels = np.full((64, 64, 3), ground, np.uint8)
        pixels[mask] = colour
        if kind == "RGBA":
            pixels = np.dstack([pixels, np.full((64, 64), 255, np.uint8)])
        if kind == "16 bit":
            save(path, pixels.astype(np.uint16) * 257)
        else:
            Image.fromarray(pixels).save(path)
        with pytest.raises(AnnotationError, match=r"it has colours.*0 for what is not marked"):
            read_mask(path)
    grey = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    grey[20:24, 10:14] = (255, 245, 240)  # a scanner's white
    options = {"quality": 40} if kind == "jpg" else {}
    Image.fromarray(grey).save(path, **options)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_channels_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for count in (3, 5):
        pixels = np.zeros((*SHAPE, count), np.uint8)
        pixels[BOX] = 255
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
        with pytest.raises(AnnotationError, match="neither grey nor RGB"):
            read_mask(path)
