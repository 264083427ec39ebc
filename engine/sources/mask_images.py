"""Masks drawn on slides: convert them to labels by stated rules, or refuse them with a reason.

Labels are those of `engine.kernels.segmentation.tissue.Tissue`: 0 background, 1 bone, 2 fat, 3
other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, SourceUnreadable
from engine.geometry import YX
from engine.kernels.colour import full_scale, luminance
from engine.kernels.segmentation.tissue import Tissue
from engine.sources.failures import open_remembering
from engine.sources.opening import open_source
from engine.sources.orientation import UPRIGHT, as_shown, as_stored, shown_shape

DRAWN = (Tissue.BONE, Tissue.FAT, Tissue.OTHER)
"""Classes with masks; the background is the remainder."""

THRESHOLD = 0.5
"""Share of full scale from which a pixel of a soft edge belongs to the mask."""

GREY_TOLERANCE = 24 / 255
"""Maximum difference of red, green and blue of a grey pixel, share of full scale: JPEG rounds
them."""

OPAQUE = 128
"""Alpha from which a palette's colour is visible."""

SAVE_GREY = "save it as grey, 0 for what is not marked and 255 for what is, one file a class"


class AnnotationError(EngineError, ValueError):
    """Unusable annotation of an image: (file or folder, problem)."""

    def __str__(self) -> str:
        where, problem = self.args
        return f"{where}: {problem}"


def read_mask(path: Path, shape: YX | None = None, orientation: int = UPRIGHT) -> NDArray[np.bool_]:
    """Read the pixels marked in a mask's file.

    Formats: grey, RGB, with or without alpha, of 1 to 16 bit, PNG, TIFF or JPEG. The rules, in this
    order:

    - With a palette of colours, the index decides: 0 is unmarked, and one other label is marked;
      see `marked_by_label`. A palette of greys is read by its grey values.
    - If alpha varies, alpha decides (people draw on a transparent layer, in any colour); constant
      alpha is ignored.
    - Otherwise the grey value decides, also of RGB with grey pixels; colours are refused.
    - In a file with only the values 0 and 1, 1 is marked; else a pixel is marked from half of full
      scale on, so an antialiased edge stays in place. A file with values other than 0, but without
      marked pixels, is refused.
    - TIFF with white as zero is refused, except one-bit TIFF: files of tifffile are read as its
      numpy values (it stores bool like that), and files that name another program as they are
      shown.
    - If the image or the mask is shown turned (`engine.sources.orientation`), the mask is laid on
      the image as shown if only these sizes agree, and on the image as stored if only those do or
      both are turned alike; if both are possible, it is refused.

    Parameters
    ----------
    path
        The file.
    shape
        Height and width of its image as stored, pixels.
    orientation
        Orientation of its image.

    Returns
    -------
    (y, x) bool, on the image as stored; possibly without marked pixels.

    Raises
    ------
    AnnotationError
        If the file is missing, can't be read, holds several images, has another size, or is
        ambiguous.
    """
    try:
        with open_remembering(path) as file, open_source(file, path.name) as source:
            plane, *others = source.planes
            if others:
                raise AnnotationError(
                    path, f"it holds {1 + len(others)} images, and a mask is one; save it alone"
                )
            pixels = source.read(0)
            indexed = source.read_indices(0)
    except OSError as error:
        raise AnnotationError(path, f"no mask there ({error.strerror})") from None
    except SourceUnreadable as error:
        raise AnnotationError(path, f"unreadable as a mask ({error})") from None
    if plane.marks_bright is None:
        raise AnnotationError(
            path,
            "white is zero in it, and programs differ in its meaning; save it with black as "
            "zero, 8 bit, 0 and 255",
        )
    if plane.separate or plane.shape[0] > len("RGBA"):
        raise AnnotationError(
            path, f"its {plane.shape[0]} channels are neither grey nor RGB; {SAVE_GREY}"
        )
    mask = None if indexed is None else marked_by_label(path, *indexed)
    if mask is None:
        mask = marked(path, pixels if plane.marks_bright else 255 - pixels)
    return mask if shape is None else _laid_on(path, mask, plane.orientation, shape, orientation)


def _laid_on(
    path: Path, mask: NDArray[np.bool_], own: int, shape: YX, orientation: int
) -> NDArray[np.bool_]:
    """Transform a mask from its own orientation to that of the stored image."""
    as_is = mask.shape == shape
    if own == orientation and as_is:
        return mask
    shown = as_shown(mask, own)
    turned = own != orientation and shown.shape == shown_shape(shape, orientation)
    if not as_is and not turned:
        found = f"{mask.shape[0]} x {mask.shape[1]}"
        raise AnnotationError(
            path, f"the mask has {found} px, its image {shape[0]} x {shape[1]}; draw on the image"
        )
    if as_is and turned:
        raise AnnotationError(
            path,
            f"its image is shown turned (orientation {orientation}, the mask's is {own}), and the "
            "mask fits it as shown and as stored; save the image upright, or the mask with the "
            "orientation of the image",
        )
    return np.ascontiguousarray(as_stored(shown, orientation)) if turned else mask


def marked_by_label(
    path: Path, indices: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.bool_] | None:
    """Return the marked pixels of a file with a palette; None if grey values or alpha decide.

    Label 0 is unmarked, in any grey. One other label may be used, in any colour. On a transparent
    layer painted in one colour, alpha decides.

    Parameters
    ----------
    path
        Path of the file, for the error.
    indices
        (y, x).
    palette
        (256, 4) RGBA.

    Raises
    ------
    AnnotationError
        If it holds several labels, or if label 0 has a colour: programs that choose the palette
        themselves number colours in order of appearance.

    Examples
    --------
    >>> palette = np.zeros((256, 4), np.uint8)
    >>> palette[:, 3] = 255
    >>> palette[1] = 128, 0, 0, 255
    >>> marked_by_label(Path("a.png"), np.array([[0, 1]], np.uint8), palette).tolist()
    [[False, True]]
    """
    used = np.unique(indices)
    colours = palette[used]
    seen = colours[colours[:, 3] >= OPAQUE, :3]
    # A file with only label 0 marks nothing, even if label 0 is white and others are coloured.
    grey = _are_grey(palette[:, :3].T if used.tolist() == [0] else seen.T, 255)
    if grey:
        return None
    transparent = len(np.unique(colours[:, 3])) > 1
    apart = np.ptp(seen.astype(np.int64), axis=0).max(initial=0)
    if transparent and apart <= GREY_TOLERANCE * 255:
        return None
    labels = used[used > 0]
    if len(labels) > 1 or transparent:
        raise AnnotationError(
            path,
            f"it holds {len(labels)} labels or colours beside 0, and a mask marks one class; "
            f"{SAVE_GREY}",
        )
    if used[0] == 0 and not _are_grey(palette[0, :3], 255):
        raise AnnotationError(
            path, f"label 0 of its palette has a colour, so the mask is ambiguous; {SAVE_GREY}"
        )
    return np.asarray(indices > 0)


def _are_grey(colours: NDArray[Any], full: float) -> bool:
    """Return True if red, green and blue (the first axis) differ only by JPEG's rounding."""
    apart = colours.max(axis=0).astype(np.float64) - colours.min(axis=0)
    return bool(apart.max(initial=0) <= GREY_TOLERANCE * full)


def marked(path: Path, pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the marked pixels of a decoded image (c, y, x), by the rules of `read_mask`.

    Raises
    ------
    AnnotationError
        If it has colours, or values other than 0 but no marked pixels.

    Examples
    --------
    >>> marked(Path("a.png"), np.array([[[0, 1, 1]]], np.uint8)).tolist()
    [[False, True, True]]
    >>> marked(Path("a.png"), np.array([[[0, 127, 128]]], np.uint8)).tolist()
    [[False, False, True]]
    """
    has_alpha = pixels.shape[0] in (2, 4)
    if has_alpha and pixels[-1].min() != pixels[-1].max():
        plane = pixels[-1]
    else:
        colours = pixels[:-1] if has_alpha else pixels
        if len(colours) > 1 and not _are_grey(colours, _full_scale(colours)):
            raise AnnotationError(
                path,
                f"it has colours, and nothing states the marked ones; {SAVE_GREY}",
            )
        plane = luminance(colours)
    full, largest = _full_scale(plane), plane.max(initial=0)
    if 0 < largest < full * THRESHOLD:
        raise AnnotationError(
            path,
            f"its largest value is {largest:g}, and a pixel is marked from half of {full:g} on; "
            f"{SAVE_GREY}",
        )
    return np.asarray(plane >= full * THRESHOLD)


def _full_scale(pixels: NDArray[Any]) -> float:
    return 1.0 if pixels.max(initial=0) <= 1 else full_scale(pixels.dtype)


def labels_of(
    masks: Mapping[Tissue, NDArray[np.bool_]], fat_over_bone: bool = True
) -> NDArray[np.uint8]:
    """Combine masks that may overlap to labels: bone and fat take precedence over other tissue.

    Parameters
    ----------
    masks
        (y, x) for each drawn class, all of one size; at least one.
    fat_over_bone
        True if fat takes precedence where both were drawn.

    Examples
    --------
    >>> row = {Tissue.BONE: np.array([[True, True]]), Tissue.FAT: np.array([[False, True]])}
    >>> labels_of(row).tolist(), labels_of(row, fat_over_bone=False).tolist()
    ([[1, 2]], [[1, 1]])
    """
    labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
    pair = (Tissue.BONE, Tissue.FAT) if fat_over_bone else (Tissue.FAT, Tissue.BONE)
    for tissue in (Tissue.OTHER, *pair):
        if tissue in masks:
            labels[masks[tissue]] = tissue
    return labels


def read_mask_folders(
    root: Path,
    name: str,
    shape: YX,
    fat_over_bone: bool = True,
    may_be_empty: Collection[Tissue] = (),
    orientation: int = UPRIGHT,
) -> NDArray[np.uint8]:
    """Return the labels of one slide from one folder of masks per class.

    Parameters
    ----------
    root
        Folder with ``bone``, ``fat`` and ``other`` (in any case), each with the masks of the slides
        under the slides' own paths. ``other`` may be missing: then only bone and fat are labelled,
        and the rest of the tissue is unknown.
    name
        Path of the slide below its own folder, without suffix, e.g. ``s1/slide-001``.
    shape
        Height and width of the slide, pixels.
    fat_over_bone
        True if fat takes precedence where both were drawn.
    may_be_empty
        Classes that may be absent from a slide. An empty mask of any other class is an error.
    orientation
        Orientation of the slide, see `read_mask`.

    Returns
    -------
    (y, x) uint8, values of `Tissue`.

    Raises
    ------
    AnnotationError
        If a mask is missing, unreadable, of another size, or empty by mistake.
    """
    folders = {path.name.lower(): path for path in sorted(root.iterdir())} if root.is_dir() else {}
    masks = {}
    for tissue in DRAWN:
        folder = folders.get(tissue.name.lower())
        if folder is None:
            if tissue is Tissue.OTHER:
                continue
            raise AnnotationError(root, f"there is no folder {tissue.name.lower()!r} of masks")
        path = find_mask_file(folder, name)
        mask = read_mask(path, shape, orientation)
        if not mask.any() and tissue not in may_be_empty:
            raise AnnotationError(
                path,
                f"the mask marks nothing. If the slide has no {tissue.name.lower()}, say that "
                "this class may be empty",
            )
        masks[tissue] = mask
    if not any(mask.any() for mask in masks.values()):
        raise AnnotationError(root, f"all masks of {name} mark nothing")
    return labels_of(masks, fat_over_bone)


def find_mask_file(folder: Path, name: str, suffix: str | None = None) -> Path:
    """Return the only file of a name.

    Parameters
    ----------
    folder
        Folder of masks.
    name
        Path below the folder, without suffix.
    suffix
        Suffix of the file, in any case; any by default.

    Raises
    ------
    AnnotationError
        If no file has the name, or more than one.
    """
    place = folder / name
    there = sorted(place.parent.glob("*")) if place.parent.is_dir() else []
    found = [
        path
        for path in there
        if path.stem == place.name and suffix in (None, path.suffix.lower()) and path.is_file()
    ]
    if len(found) != 1:
        word = "no mask" if not found else f"{len(found)} masks"
        raise AnnotationError(folder, f"there is {word} for {name}, but should be one")
    return found[0]
