"""Masks of contours, files and label images: the same face, and no silence about what is wrong."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from distributed import Client

import engine
from engine.errors import (
    CorruptStore,
    EngineError,
    MissingObject,
    NoSource,
    NothingFound,
    ParameterError,
)
from engine.geometry import Region
from engine.kernels.contours.geometry import fill_contour
from engine.kernels.segmentation.tissue import Tissue
from engine.learning.datasets.label_images import LabelImages
from engine.learning.datasets.mask_files import LayeredFiles, MaskFolders
from engine.learning.datasets.masked_images import card_name
from engine.learning.datasets.masks import ContourMasks, Masks, NoMask
from engine.learning.models.card import make_classes
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.store.catalog.annotations import read_annotations, read_contours
from engine.store.catalog.tables import (
    ShardRow,
    commit_with_retry,
    read_images,
    shard_table,
    shards_ledger,
)
from engine.store.digests import digest_bytes
from tests.support.images import grey, put


def catalog(cohort: engine.Cohort) -> pa.Table:
    return read_images(cohort.store)[1]


def assert_one_face(masks: Masks, images: pa.Table) -> None:
    """Check what holds for masks of any kind."""
    shapes = {
        row["image_id"]: (row["height"], row["width"])
        for row in images.to_pylist()
        if row["height"]
    }
    assert list(masks.image_ids) == sorted(masks.image_ids)
    travelled = pickle.loads(pickle.dumps(masks))
    seen = set()
    for image_id in masks.image_ids:
        whole = masks.read(image_id)
        assert (whole.shape, whole.dtype) == (shapes[image_id], np.uint8)
        assert set(np.unique(whole)) <= {0, *masks.names}
        height, width = whole.shape
        region = Region((height // 4, width // 3), (height // 2 + 1, width))
        np.testing.assert_array_equal(travelled.read(image_id, region), whole[region.slices])
        assert masks.digest(image_id) == travelled.digest(image_id)
        seen.add(masks.digest(image_id))
        with pytest.raises(ParameterError):
            masks.read(image_id, Region((0, 0), (height + 1, width)))
    with pytest.raises(NoMask, match="no image of this name"):
        masks.read("nobody")


@pytest.fixture(scope="module")
def marrow(tmp_path_factory: pytest.TempPathFactory, client: Client) -> tuple[engine.Cohort, Path]:
    """A cohort of slides; masks of bone, fat and the rest beside them, and the same as PSD."""
    base = tmp_path_factory.mktemp("marrow")
    for kind in ("png", "psd"):
        options = MarrowOptions(images=2, size=(160, 192), scale=0.4, format=kind, seed=3)
        write_marrow(base / kind, options)
    cohort = engine.create(base / "cohort", layout="{subject}/{name}")
    cohort.ingest(base / "png" / "slides", client=client)
    return cohort, base


def test_contours_become_masks_in_the_order_of_their_labels(hearts: engine.Cohort) -> None:
    images = catalog(hearts)
    masks = ContourMasks({"outer": 2, "inner": 1}).open(hearts.store, images)
    assert len(masks.image_ids) == 36
    assert masks.names == {2: "outer", 1: "inner"}
    assert_one_face(masks, images)
    drawn = read_contours(hearts.store, read_annotations(hearts.store).refs)
    for image_id in masks.image_ids:
        inner, outer = (
            fill_contour(next(c for c in drawn[image_id] if c.structure == name).rings, (128, 128))
            for name in ("inner", "outer")
        )
        np.testing.assert_array_equal(
            masks.read(image_id), np.where(inner, 1, np.where(outer, 2, 0))
        )
    other = ContourMasks({"inner": 1, "outer": 2}).open(hearts.store, images)
    image_id = masks.image_ids[0]
    assert set(np.unique(other.read(image_id))) == {0, 2}, "the outer one was painted last"
    assert other.digest(image_id) != masks.digest(image_id)


def test_contours_that_are_not_there_are_said(
    hearts: engine.Cohort, marrow: tuple[engine.Cohort, Path]
) -> None:
    images = catalog(hearts)
    with pytest.raises(NoMask, match=r"no image has 'endo'.* but inner, outer"):
        ContourMasks({"endo": 1}).open(hearts.store, images)
    with pytest.raises(NoMask, match="but nothing"):
        ContourMasks().open(marrow[0].store, catalog(marrow[0]))
    with pytest.raises(ParameterError):
        ContourMasks({"inner": 256})
    masks = ContourMasks().open(hearts.store, images.slice(0, 5))
    assert len(masks.image_ids) == 5


def test_folders_and_layers_give_the_same_masks(marrow: tuple[engine.Cohort, Path]) -> None:
    cohort, base = marrow
    images = catalog(cohort)
    folders = MaskFolders(base / "png" / "masks").open(cohort.store, images)
    layers = LayeredFiles(base / "psd" / "slides").open(cohort.store, images)
    assert len(folders.image_ids) == 2
    assert folders.image_ids == layers.image_ids
    for masks in (folders, layers):
        assert_one_face(masks, images)
    for image_id in folders.image_ids:
        np.testing.assert_array_equal(folders.read(image_id), layers.read(image_id))
        assert folders.digest(image_id) != layers.digest(image_id)


def test_files_that_do_not_fit_are_named(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path
) -> None:
    cohort, base = marrow
    images = catalog(cohort)
    shutil.copytree(base / "png" / "masks", tmp_path / "masks")
    masks = MaskFolders(tmp_path / "masks").open(cohort.store, images)
    first, second = masks.image_ids
    before = masks.digest(first)
    path = tmp_path / "masks" / "fat" / Path(first).relative_to("slides")
    put(path, np.full((160, 192), 255, np.uint8))
    assert masks.digest(first) != before
    put(path, np.zeros((160, 191), np.uint8))
    with pytest.raises(NoMask, match="160 x 191 px, its image 160 x 192") as error:
        masks.read(first)
    assert str(error.value).startswith(first)
    path.unlink()
    again = MaskFolders(tmp_path / "masks").open(cohort.store, images)
    assert again.image_ids == (first, second), "what one folder lacks is said, not left out"
    for ask in (again.read, again.digest):
        with pytest.raises(NoMask, match="no mask for"):
            ask(first)
    layered = LayeredFiles(base / "psd" / "slides", classes={"bone": Tissue.FAT})
    assert set(np.unique(layered.open(cohort.store, images).read(second))) == {0, Tissue.FAT}
    with pytest.raises(NoMask, match="named as its image is"):
        LayeredFiles(tmp_path / "masks").open(cohort.store, images)
    with pytest.raises(NoSource):
        MaskFolders(tmp_path / "none").open(cohort.store, images)
    with pytest.raises(ParameterError, match="slides"):
        MaskFolders(tmp_path / "masks", images="raw").open(cohort.store, images)


def test_paths_of_confidential_images_are_not_looked_for(
    hearts: engine.Cohort, tmp_path: Path
) -> None:
    put(tmp_path / "bone" / "a.png", grey(1))
    with pytest.raises(NoMask, match="confidential"):
        MaskFolders(tmp_path).open(hearts.store, catalog(hearts))


def write_labels(cohort: engine.Cohort, stack: str, labels: np.ndarray, name: str = "seg") -> Path:
    """Write a label image by NGFF 0.5, as any program might."""
    group = zarr.open_group(Path(cohort.store.url) / f"pixels/{stack}.zarr", mode="r")
    axes = group.attrs["ome"]["multiscales"][0]["axes"]
    path = Path(cohort.store.url) / f"pixels/{stack}.zarr/labels"
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "labels": [name]}})
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    ome = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
        "image-label": {"source": {"image": "../../"}},
    }
    image = zarr.create_group(path / name, attributes={"ome": ome})
    chunk = (1, *labels.shape[1:])
    array = image.create_array(
        "0",
        shape=labels.shape,
        dtype=labels.dtype,
        chunks=chunk,
        shards=(2, *labels.shape[1:]),
        compressors=zarr.codecs.ZstdCodec(checksum=True),
        dimension_names=[axis["name"] for axis in axes],
    )
    array[:] = labels
    return path / name / "0"


@pytest.fixture
def labelled(client: Client, tmp_path: Path) -> tuple[engine.Cohort, dict[str, np.ndarray], Path]:
    """A cohort of nine images with a label image, its planes by image_id, and where it is."""
    for n in range(9):
        put(tmp_path / "sources" / f"{n}.png", grey(n))
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    cohort.ingest(tmp_path / "sources", client=client)
    labels = np.stack([grey(n + 50) % 3 for n in range(9)])[:, None]
    rows = catalog(cohort).to_pylist()
    path = write_labels(cohort, rows[0]["stack"], labels)
    return cohort, {row["image_id"]: labels[row["t"], 0] for row in rows}, path


Labelled = tuple[engine.Cohort, dict[str, np.ndarray], Path]


def test_label_images_are_read_where_they_lie(labelled: Labelled) -> None:
    cohort, planes, path = labelled
    images = catalog(cohort)
    masks = LabelImages("seg", {1: "cell", 2: "edge"}).open(cohort.store, images)
    assert_one_face(masks, images)
    assert set(masks.image_ids) == set(planes)
    for image_id, plane in planes.items():
        np.testing.assert_array_equal(masks.read(image_id), plane)
    assert len({masks.digest(image_id) for image_id in planes}) == 9
    with pytest.raises(NothingFound, match="has a label image 'nuclei'"):
        LabelImages("nuclei").open(cohort.store, images)
    stack = images["stack"][0].as_py()
    for wrong in (np.zeros((9, 1, 40, 47), np.uint8), np.zeros((9, 1, 40, 48), np.uint32)):
        shutil.rmtree(path.parents[1])
        write_labels(cohort, stack, wrong)
        with pytest.raises(NoMask, match=r"its stack asks for|classes are uint8"):
            LabelImages("seg").open(cohort.store, images)


@pytest.mark.parametrize("catalogued", [True, False])
def test_broken_label_images_speak(labelled: Labelled, catalogued: bool) -> None:
    cohort, planes, path = labelled
    images = catalog(cohort)
    if catalogued:
        (path / "c/4/0/0/0").unlink()  # never written: the last image has no labels
        note(cohort, path)
    masked = LabelImages("seg").open(cohort.store, images).image_ids
    assert len(masked) == (8 if catalogued else 9)
    shard = path / "c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 4
    first, second = (i for i, r in enumerate(images.to_pylist()) if r["t"] < 2)
    ids = images["image_id"].to_pylist()

    def errors() -> Sequence[type[EngineError]]:
        masks = LabelImages("seg").open(cohort.store, images)
        found = []
        for image_id in (ids[first], ids[second]):
            try:
                np.testing.assert_array_equal(masks.read(image_id), planes[image_id])
            except EngineError as error:
                found.append(type(error))
        return found

    shard.write_bytes(data)
    assert errors() == [CorruptStore], "the chunk that the bit is in"
    shard.unlink()
    assert errors() == [MissingObject if catalogued else CorruptStore] * 2


def note(cohort: engine.Cohort, path: Path) -> None:
    """Put a label image's files into the catalog."""
    top = Path(cohort.store.url)
    stack = str(path.parent.relative_to(top / "pixels"))
    rows = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        data, name = file.read_bytes(), str(file.relative_to(top))
        chunks = -1 if file.name == "zarr.json" else 2
        rows.append(ShardRow(name, stack, 0, -1, digest_bytes(data), len(data), chunks))
    ledger = shards_ledger(cohort.store)
    part = ledger.write_part(shard_table(rows))
    commit_with_retry(ledger, ledger.snapshot(), lambda _: ([part], []))


@pytest.mark.parametrize("name", ["Left Ventricle", "2", "é", "", "x" * 99, "LV-endo"])
def test_a_structure_of_any_name_can_be_a_class(name: str) -> None:
    (_, found) = make_classes(["background", card_name(name)])
    assert 0 < len(found.name) <= 40
