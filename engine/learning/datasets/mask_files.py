"""Masks from files next to the images: one folder of masks per class, or layered drawings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa

from engine.errors import NoSource, ParameterError
from engine.geometry import Region
from engine.kernels.segmentation.tissue import Tissue
from engine.learning.datasets.masks import (
    Labels,
    Masks,
    NoMask,
    Plane,
    plane_of,
    planes_of,
    region_of,
)
from engine.sources.mask_images import DRAWN, AnnotationError, find_mask_file, read_mask_folders
from engine.sources.orientation import UPRIGHT
from engine.sources.png import has_palette
from engine.sources.psd import read_psd
from engine.store.backend.base import Store
from engine.store.config import read_config
from engine.store.digests import digest_bytes, digest_of

RULE = 1
"""Version of the rules that convert files to labels, see `engine.sources.mask_images`."""

RULE_OF_NEWER = 3
"""Version of the rules of formats added later; masks of other formats keep theirs."""

_NEWER = (".tif", ".tiff", ".psd")


@dataclass(frozen=True)
class MaskFolders:
    """Masks as files: folders ``bone``, ``fat`` and ``other``, as `cohort phantom marrow` writes.

    Parameters
    ----------
    path
        Folder that contains them. In each, the mask of an image has the image's own path below its
        root, with any suffix.
    images
        Name of the root of the images; any root by default.
    fat_over_bone
        Whether fat takes precedence where both were drawn.
    may_be_empty
        Classes that may be absent from an image; an empty mask of any other class is an error.
    """

    path: str | Path
    images: str | None = None
    fat_over_bone: bool = True
    may_be_empty: tuple[Tissue, ...] = ()

    def open(self, store: Store, images: pa.Table) -> Masks:
        """Find the images with a mask in any of the folders; see `MaskSource.open`.

        Raises
        ------
        NoMask
            If no image has a mask, or two images have the same path.
        NoSource
        """
        # An image without a mask in one folder counts as masked, so that reading it reports the
        # gap.
        names = {name for folder in self._folders() for name in _names_below(folder, None)}
        return _MaskFiles(self, planes_of(images), _match(store, images, self, names))

    def files_of(self, name: str) -> list[Path]:
        """Return the files of the mask of a name."""
        return [find_mask_file(folder, name) for folder in self._folders()]

    def labels_of(self, name: str, plane: Plane) -> Labels:
        """Read the mask of a name."""
        return read_mask_folders(
            Path(self.path), name, plane.shape, self.fat_over_bone, self.may_be_empty,
            plane.orientation,
        )  # fmt: skip

    @property
    def rules(self) -> list[object]:
        """Inputs of a mask besides its files."""
        return ["folders", RULE, self.fat_over_bone]

    def _folders(self) -> list[Path]:
        there = {p.name.lower(): p for p in _list(self.path) if p.is_dir()}
        return [there[t.name.lower()] for t in DRAWN if t.name.lower() in there]


@dataclass(frozen=True)
class LayeredFiles:
    """Masks as layered PSD files, which hold an image and the drawings on it; extra ``slides``.

    Parameters
    ----------
    path
        Folder of PSD files under the images' own paths below their root.
    images
        Name of the root of the images; any root by default.
    classes
        Class of each layer by its name; by default by the rule of `engine.sources.psd.read_psd`.
    fat_over_bone
        Whether fat takes precedence where both were drawn.
    """

    path: str | Path
    images: str | None = None
    classes: Mapping[str, Tissue] | None = None
    fat_over_bone: bool = True

    def open(self, store: Store, images: pa.Table) -> Masks:
        """Find the images with a PSD; see `MaskSource.open`.

        Raises
        ------
        NoMask
            If no image has a PSD, or two images have the same path.
        NoSource
        """
        _list(self.path)
        names = set(_names_below(Path(self.path), ".psd"))
        return _MaskFiles(self, planes_of(images), _match(store, images, self, names))

    def files_of(self, name: str) -> list[Path]:
        """Return the file of the mask of a name."""
        return [find_mask_file(Path(self.path), name, ".psd")]

    def labels_of(self, name: str, plane: Plane) -> Labels:
        """Read the mask of a name."""
        (path,) = self.files_of(name)
        labels, shape = read_psd(path, self.classes, self.fat_over_bone).labels, plane.shape
        if plane.orientation != UPRIGHT:
            raise AnnotationError(
                path, "its image is shown turned, and a PSD does not say so; save the image upright"
            )
        if labels.shape != shape:
            found = f"{labels.shape[0]} x {labels.shape[1]}"
            raise AnnotationError(
                path, f"drawn on {found} px, its image has {shape[0]} x {shape[1]}"
            )
        return labels

    @property
    def rules(self) -> list[object]:
        """Inputs of a mask besides its file."""
        layers = sorted(
            (name.lower(), int(tissue)) for name, tissue in (self.classes or {}).items()
        )
        return ["layers", RULE, self.fat_over_bone, [list(layer) for layer in layers]]


class _Files(Protocol):
    @property
    def path(self) -> str | Path: ...
    @property
    def images(self) -> str | None: ...
    @property
    def rules(self) -> list[object]: ...
    def files_of(self, name: str) -> list[Path]: ...
    def labels_of(self, name: str, plane: Plane) -> Labels: ...


class _MaskFiles:
    """Masks of files; the last one stays decoded, since its parts are requested in sequence."""

    def __init__(
        self, files: _Files, planes: Mapping[str, Plane], names: Mapping[str, str]
    ) -> None:
        self._files = files
        self._planes = planes
        self._names = names
        self._last: tuple[str, Labels] | None = None

    @property
    def names(self) -> Mapping[int, str]:
        return {int(tissue): tissue.name.lower() for tissue in DRAWN}

    @property
    def image_ids(self) -> Sequence[str]:
        return tuple(self._names)

    def lacking(self, image_id: str) -> str:
        return "no_mask"

    def digest(self, image_id: str) -> str:
        name = self._name(image_id)
        try:
            files = self._files.files_of(name)
            found = [path.read_bytes() for path in files]
        except (AnnotationError, OSError) as error:
            raise NoMask(image_id, _sentence(error)) from None
        rules = self._files.rules
        turned = self._planes[image_id].orientation
        newer = any(path.suffix.lower() in _NEWER for path in files)
        if newer or any(has_palette(content) for content in found):
            rules = [*rules, RULE_OF_NEWER]
        if turned != UPRIGHT:
            rules = [*rules, "orientation", turned]
        return digest_of([*rules, [digest_bytes(content) for content in found]])

    def read(self, image_id: str, region: Region | None = None) -> Labels:
        name = self._name(image_id)
        box = region_of(image_id, self._planes[image_id].shape, region)
        if self._last is None or self._last[0] != image_id:
            try:
                labels = self._files.labels_of(name, self._planes[image_id])
            except (AnnotationError, OSError) as error:
                raise NoMask(image_id, _sentence(error)) from None
            self._last = (image_id, labels)
        return self._last[1][box.slices].copy()

    def read_many(self, image_ids: Sequence[str]) -> Iterator[Labels]:
        return map(self.read, image_ids)

    def _name(self, image_id: str) -> str:
        if image_id not in self._names:
            plane_of(self._planes, image_id)
            raise NoMask(image_id, f"no mask of its path is below {self._files.path}")
        return self._names[image_id]


def _sentence(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else str(error)


def _list(path: str | Path) -> list[Path]:
    try:
        return sorted(Path(path).iterdir())
    except OSError:
        raise NoSource(path) from None


def _names_below(folder: Path, suffix: str | None) -> Iterator[str]:
    try:
        for path in folder.rglob("*"):
            if path.is_file() and suffix in (None, path.suffix.lower()):
                yield path.relative_to(folder).with_suffix("").as_posix()
    except OSError as error:  # skipping some would silently change the training set
        raise AnnotationError(folder, f"it can't be listed now ({error.strerror})") from None


def _match(store: Store, images: pa.Table, files: _Files, names: set[str]) -> dict[str, str]:
    """Return the name of the mask of each image that has one, by image_id."""
    roots = read_config(store).roots
    if files.images is not None and files.images not in roots:
        raise ParameterError("images", files.images, f"one of {', '.join(sorted(roots))}")
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    hidden = False
    for image_id, plane in planes_of(images).items():
        base, _, path = plane.source.partition("/")
        if files.images not in (None, base):
            continue
        if base in roots and roots[base].confidential:
            hidden = True  # its path in the catalog is a pseudonym
            continue
        name = str(PurePosixPath(path).with_suffix(""))
        if name not in names:
            continue
        if name in owners:
            raise NoMask(
                image_id,
                f"{owners[name]} has the same path below its root; say which root's images are "
                "meant (images=...), or give each image a file of its own",
            )
        owners[name] = image_id
        found[image_id] = name
    if not found:
        why = "; paths of a confidential root are not stored, so its images can't be found"
        raise NoMask(
            store.url,
            f"no image has a mask of its path below {files.path}"
            f"{why if hidden else '; a mask is named as its image is below the root'}",
        )
    return dict(sorted(found.items()))
