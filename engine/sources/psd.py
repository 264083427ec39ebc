"""Layered PSD files with annotations: the slide below, the drawn classes above."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable, install_command
from engine.geometry import YX
from engine.kernels.segmentation.tissue import Tissue
from engine.sources.base import MAX_DECODED_BYTES
from engine.sources.failures import (
    is_of_the_disk,
    open_remembering,
    reads_named,
    unreadable,
)
from engine.sources.mask_images import THRESHOLD, AnnotationError, labels_of

HEADER = struct.Struct(">4sHxxxxxxHIIHH")
"""Signature, version, channels, height, width, depth, mode: Adobe Photoshop File Formats
Specification, File Header Section."""


COLOURS = {1: "grey", 3: "RGB", 8: "duotone"}
"""Supported colour modes; by the specification, duotone is read as grey."""

# Photoshop numbers copies like this
_NAMED = re.compile(r"(bone|fat)( copy)?( \d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSlide:
    """Slide with labels: ``pixels`` (3, y, x), ``labels`` (y, x), both uint8."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def read_psd(
    path: Path,
    classes: Mapping[str, Tissue] | None = None,
    fat_over_bone: bool = True,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> AnnotatedSlide:
    """Read a slide and its labels from the layers of a PSD.

    The lowest layer is the slide, the next is the foreground (all tissue). Of the other layers, one
    named bone or fat is that class (a copy or a number may follow); else a layer with a mask is
    fat, and one without is bone. Masks that a program added by itself are ignored: a mask that
    hides nothing, that renders a shape, or that holds former transparency (exactly the pixels that
    it hides are black). Layers of one class add up. A layer marks its pixels of at least half
    opacity, within its masks if it has some, even if it is not shown. Groups are opened. Foreground
    that is neither bone nor fat is other tissue.

    Parameters
    ----------
    path
        The file.
    classes
        Class of each layer above the slide by its name, in any case, instead of these rules. Layers
        of other names are left out.
    fat_over_bone
        True if fat takes precedence where both were drawn.
    max_decoded_bytes
        Limit of the decoded size of one layer of the slide's size, bytes.

    Raises
    ------
    AnnotationError
        If psd-tools is not installed; if the file is not a PSD, is too large or has too few layers;
        if the slide does not fill the canvas, or its colours are not grey or RGB; if all layers
        have masks, so that masks do not distinguish classes; if a shape was not rendered, or a
        class that the rule expects marks nothing.
    """
    try:
        from psd_tools import PSDImage
    except ImportError:
        raise AnnotationError(
            path, f"layered PSD needs psd-tools: {install_command('slides')}"
        ) from None
    shape = _size(path, max_decoded_bytes)
    try:
        with open_remembering(path) as file, reads_named(file):
            layers = [layer for layer in PSDImage.open(file).descendants() if not layer.is_group()]
        if len(layers) < 3:
            raise AnnotationError(
                path, f"{len(layers)} layers, but a slide, its foreground and a drawn class need 3"
            )
        pixels = _slide(path, layers[0], shape)
        masks = _masks(path, layers[1:], classes, shape)
    except AnnotationError:
        raise
    except SourceUnreadable as error:
        raise AnnotationError(path, f"unreadable as PSD ({error})") from None
    except OSError as error:
        found = unreadable(error) if is_of_the_disk(error) else type(error).__name__
        raise AnnotationError(path, f"unreadable as PSD ({found})") from None
    except Exception as error:  # a decoder's text may quote the file
        raise AnnotationError(path, f"unreadable as PSD ({type(error).__name__})") from None
    return AnnotatedSlide(pixels, labels_of(masks, fat_over_bone))


def _size(path: Path, limit: int) -> YX:
    """Return height and width from the header, before decoding."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except FileNotFoundError as error:
        raise AnnotationError(path, f"no file there ({error.strerror})") from None
    except OSError as error:
        raise AnnotationError(path, f"unreadable as PSD ({unreadable(error)})") from None
    if len(head) < HEADER.size or head[:4] != b"8BPS":
        raise AnnotationError(path, "the first bytes are not those of a PSD")
    _, _, channels, height, width, depth, mode = HEADER.unpack(head)
    needed = height * width * max(channels, 4) * max(depth // 8, 1)
    if not height or not width or needed > limit:
        raise AnnotationError(
            path, f"too_large: a layer has {needed} bytes decoded, the limit is {limit}"
        )
    if mode not in COLOURS:
        raise AnnotationError(
            path, "its colours are neither grey nor RGB (Lab, CMYK, ...); convert it and save again"
        )
    return height, width


def _slide(path: Path, layer: Any, shape: YX) -> NDArray[np.uint8]:
    if (layer.top, layer.left, layer.height, layer.width) != (0, 0, *shape):
        raise AnnotationError(path, "the lowest layer is not a slide that fills the canvas")
    colour = layer.numpy("color")
    if colour is None or colour.shape[2] not in (1, 3):
        raise AnnotationError(path, "the lowest layer is neither grey nor RGB")
    levels = np.rint(colour * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(levels, 2, 0), (3, *shape)))


def _masks(
    path: Path, layers: list[Any], classes: Mapping[str, Tissue] | None, shape: YX
) -> dict[Tissue, NDArray[np.bool_]]:
    masks = {tissue: np.zeros(shape, bool) for tissue in (Tissue.OTHER, Tissue.BONE, Tissue.FAT)}
    named = {name.lower(): tissue for name, tissue in (classes or {}).items()}
    expected = set(named.values()) if classes else {Tissue.OTHER}
    untold = classes is None and all(_has_drawn_mask(layer, shape) for layer in layers)
    for number, layer in enumerate(layers):
        name = _NAMED.fullmatch(layer.name.strip())
        if classes is not None:
            tissue = named.get(layer.name.strip().lower())
        elif number == 0:
            tissue = Tissue.OTHER  # foreground without bone and fat
        else:
            if name is not None:
                tissue = Tissue[name.group(1).upper()]
            elif untold:
                raise AnnotationError(
                    path,
                    "all of its layers have a mask, also the foreground, so masks do not tell fat "
                    "from bone; call the layers bone and fat, or say the class of each name",
                )
            else:
                tissue = Tissue.FAT if _has_drawn_mask(layer, shape) else Tissue.BONE
            expected.add(tissue)
        if tissue is not None and tissue is not Tissue.BACKGROUND:
            _check_shape(path, layer)
            masks[tissue] |= _covered(layer, shape)
    for tissue in sorted(expected - {Tissue.BACKGROUND}):
        if not masks[tissue].any():
            word = "foreground" if tissue is Tissue.OTHER else tissue.name.lower()
            raise AnnotationError(path, f"nothing is marked as {word}")
    return masks


def _check_shape(path: Path, layer: Any) -> None:
    """Refuse a layer with a shape that has no rendered pixels in the file."""
    if not layer.has_vector_mask() or layer.vector_mask.disabled:
        return
    mask = layer.mask
    if mask is None or not (mask.has_real() or mask.flags.user_mask_from_render):
        raise AnnotationError(path, "a layer has a vector mask; rasterize it and save again")


def _has_drawn_mask(layer: Any, shape: YX) -> bool:
    """Return True if a layer has a mask drawn by a person, see `read_psd`."""
    mask = layer.mask
    if mask is None or (mask.flags.user_mask_from_render and not mask.has_real()):
        return False
    opaque, shown = _opaque(layer, shape) >= THRESHOLD, _unmasked(layer, shape)
    if not (opaque & (shown < THRESHOLD)).any():
        return False
    hidden, colour = opaque & (shown == 0), layer.numpy("color")
    if colour is None or mask.bbox != layer.bbox or not hidden.any():
        return True
    canvas = np.zeros(shape, np.float32)
    _paste(canvas, colour.max(axis=2), layer.top, layer.left)
    return bool(canvas[hidden].any() or not canvas[opaque & ~hidden].all())


def _covered(layer: Any, shape: YX) -> NDArray[np.bool_]:
    """Return the pixels of at least half opacity in a layer, on the whole canvas."""
    covered = _opaque(layer, shape)
    if layer.has_mask() and not layer.mask.disabled:
        covered *= _unmasked(layer, shape)
    return np.asarray(covered >= THRESHOLD)


def _opaque(layer: Any, shape: YX) -> NDArray[np.float32]:
    """Return the opacity of a layer, without its mask."""
    covered = np.zeros(shape, np.float32)
    alpha = layer.numpy("shape")
    if alpha is None:
        alpha = np.ones((layer.height, layer.width, 1), np.float32)
    _paste(covered, alpha[..., 0], layer.top, layer.left)
    return covered


def _unmasked(layer: Any, shape: YX) -> NDArray[np.float32]:
    """Return the transmission of a layer's mask, on the whole canvas."""
    mask = np.full(shape, layer.mask.background_color / 255, np.float32)
    drawn = layer.mask.topil()
    if drawn is not None:
        values = np.asarray(drawn.convert("L"), np.float32) / 255
        _paste(mask, values, layer.mask.top, layer.mask.left)
    return mask


def _paste(canvas: NDArray[np.float32], part: NDArray[np.floating], top: int, left: int) -> None:
    """Paste a part onto the canvas, cropped at its edges."""
    height, width = part.shape
    first_y, first_x = max(0, top), max(0, left)
    last_y, last_x = min(canvas.shape[0], top + height), min(canvas.shape[1], left + width)
    if first_y < last_y and first_x < last_x:
        inside = part[first_y - top : last_y - top, first_x - left : last_x - left]
        canvas[first_y:last_y, first_x:last_x] = inside
