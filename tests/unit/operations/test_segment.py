"""`segment`: from a cohort to bone density, with the baseline and with models."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client
from skimage.measure import label, regionprops

import engine
import engine.runs.plan
from engine.errors import ParameterError, WorkerUnfit
from engine.kernels.segmentation.tissue import Tissue, bone_density, class_areas
from engine.learning.models.bundle import write_bundle
from engine.learning.models.cache import MODEL_CACHE, ModelCache
from engine.learning.models.card import Card, CardError, ClassCard
from engine.learning.models.weights import WeightsRefused
from engine.operations.base import Image, ImageFailed
from engine.operations.segment.objects import PIECES, RUNS, objects_table
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowSlide
from engine.qc.render import Shown, tint
from engine.store.config import declare_operation
from engine.store.labels.images import files_by_path
from engine.store.pixels.stacks import StackReader, label_stack
from engine.tables.geojson import write_features
from tests.support.images import connect_quietly, put
from tests.support.label_operation import label_rows

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="networks need torch: pip install .[segment]"
)
WATCHED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Knows its peak. It has to outlive all that was made in it."""

CARD = Card(
    name="small", architecture="unet", options={"width": 2}, tile_px=128, halo_px=32, spacing_um=4.0
)


def place_of(cohort: engine.Cohort) -> Path:
    return Path(str(cohort.store.url).removeprefix("file://"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two slides, and one so tall that it is cut into blocks."""
    root = tmp_path_factory.mktemp("marrow")
    write_marrow(root, MarrowOptions(images=2, size=(360, 240), scale=0.5, seed=5))
    tall = MarrowSlide(MarrowOptions(images=1, size=(2200, 128), scale=0.5, seed=6), 0).whole()
    put(root / "slides/s3/tall.png", np.moveaxis(tall.pixels, 0, 2))
    return root / "slides"


@pytest.fixture(scope="module")
def cohort(slides: Path, tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    made = engine.create(tmp_path_factory.mktemp("cohort") / "c")
    with (place_of(made) / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 500000\n")
    made.ingest(slides, layout="{subject}/{name}", client=client)
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")
    import safetensors.torch

    from engine.kernels.networks.factory import create_network

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = create_network("unet", {"width": 2}, 3, 4)
    weights = safetensors.torch.save(network.state_dict())
    return write_bundle(tmp_path_factory.mktemp("models") / "small", CARD, weights).directory


def test_the_baseline_says_how_dense_bone_is(cohort: engine.Cohort, client: Client) -> None:
    report = cohort.run(engine.segment(), client=client)
    assert (report.planned, report.failed) == (3, 0)
    classes = cohort.table("segment")
    assert len(classes) == 12, "four classes an image, also of the one in blocks"
    assert list(classes["class_name"][:4]) == ["background", "bone", "fat", "other"]
    assert list(classes["label"][:4]) == [0, 1, 2, 3]
    assert "class" not in classes, "the label says it"
    sizes = classes.groupby("name")["pixels"].sum()
    assert sizes["tall"] == 2200 * 128
    slides = classes["name"] != "tall"
    np.testing.assert_allclose(classes["area_um2"][slides], 16 * classes["pixels"][slides])
    assert classes["area_um2"][~slides].isna().all(), "this file says no pixel size"
    np.testing.assert_allclose(classes.groupby(["subject", "name"])["share"].sum(), 1)
    images = cohort.table("segment_by_image").set_index("name")
    for name, rows in classes.groupby("name"):
        if name != "tall":
            continue
        assert images.loc[name, "bone_density"] == pytest.approx(bone_density(list(rows["pixels"])))
        assert images.loc[name, "tissue_px"] == rows["pixels"][rows["label"] > 0].sum()
    truth = MarrowSlide(MarrowOptions(images=2, size=(360, 240), scale=0.5, seed=5), 0).whole()
    seen = images[images["subject"] == "s1"]["tissue_share"].iloc[0]
    areas = class_areas(truth.labels)
    assert seen == pytest.approx(1 - areas[0] / sum(areas), abs=0.1)
    assert images["disagreement"].isna().all()
    groups = cohort.table("segment_by_experiment")
    assert groups["bone_density_mean"].notna().all()
    assert groups["images"].sum() == 3
    again = cohort.run(engine.segment(), client=client)
    assert again.planned == 0


def test_means_by_experiment_are_over_images(cohort: engine.Cohort, client: Client) -> None:
    cohort.run(engine.segment(), client=client)
    images = cohort.table("segment_by_image")
    groups = cohort.table("segment_by_experiment").set_index("subject")
    for subject, rows in images.groupby("subject"):
        assert groups.loc[subject, "bone_density_mean"] == pytest.approx(
            rows["bone_density"].mean(), nan_ok=True
        )


@needs_torch
def test_a_model_answers_as_rows_and_is_loaded_once(
    cohort: engine.Cohort, bundle: Path, client: Client, tmp_path: Path
) -> None:
    operation = engine.segment(model=str(bundle), device="cpu")
    assert operation.resources == {"GPU": 1}
    loads = MODEL_CACHE.loads
    report = cohort.run(operation, client=client)
    assert (report.planned, report.failed) == (3, 0)
    assert MODEL_CACHE.loads == loads + 1
    table = pd.read_parquet(place_of(cohort) / f"tables/{report.tables[0]}.parquet")
    assert table.groupby("name")["pixels"].sum()["tall"] == 2200 * 128
    # The place of a model, its batch and its device are no part of what was asked.
    moved = tmp_path / "moved"
    shutil.copytree(bundle, moved)
    elsewhere = engine.segment(model=str(moved), device="cpu", batch=1)
    assert cohort.plan(elsewhere).to_compute == 0
    toml = place_of(cohort) / "cohort.toml"
    before = toml.read_text()
    (trial,) = (key for key in cohort.status().keys if key.key == operation.key)
    assert (trial.missing, trial.declared) == (None, False)
    assert "weights" in str(trial.note)
    declare_operation(cohort.store, "segment", elsewhere.parameters, replace=True)
    (current,) = (key for key in cohort.status().keys if key.key == operation.key)
    assert (current.missing, current.done, current.declared) == (0, 3, True)
    toml.write_text(before)
    assert cohort.plan(engine.segment(vacuole_radius_px=9)).to_compute == 3


def test_vacuoles_are_counted_whole_and_lie_in_the_labels(
    cohort: engine.Cohort, client: Client
) -> None:
    cohort.run(engine.segment(), client=client)
    objects = cohort.table("segment_objects")
    classes = cohort.table("segment")
    fat = classes[classes["class_name"] == "fat"].set_index("image_id")
    assert classes[classes["class_name"] != "fat"]["objects"].isna().all()
    assert set(objects["class_name"]) == {"fat"}
    rows = label_rows(cohort)
    reader = StackReader(cohort.store, files_by_path(cohort.store, rows))
    for image in cohort.images().frame.itertuples():
        stack = label_stack(image.stack, engine.segment().label_name)
        labels = reader.read(
            stack, (int(image.t), 0, slice(0, image.height), slice(0, image.width))
        )
        props = regionprops(label(labels == Tissue.FAT, connectivity=1))
        mine = objects[objects["image_id"] == image.image_id]
        assert len(mine) == len(props) == fat.loc[image.image_id, "objects"], image.image_id
        assert mine["area_px"].sum() == fat.loc[image.image_id, "pixels"]
        due = sorted((round(p.centroid[0], 6), round(p.centroid[1], 6), p.area) for p in props)
        found = zip(mine["y"].round(6), mine["x"].round(6), mine["area_px"], strict=True)
        assert sorted(found) == due
        if image.name != "tall":  # a slide with a pixel size
            np.testing.assert_allclose(mine["area_um2"], 16 * mine["area_px"])
            np.testing.assert_allclose(
                mine["equivalent_diameter_um"], 4 * mine["equivalent_diameter_px"]
            )
        assert list(mine["object"]) == list(range(1, len(mine) + 1))
        # The label image of objects is numbered as the table is, also where blocks were cut.
        stack = label_stack(image.stack, engine.segment().object_image.name)
        objects_there = reader.read(
            stack, (int(image.t), 0, slice(0, image.height), slice(0, image.width))
        )
        assert objects_there.dtype == np.uint32
        assert ((objects_there > 0) == (labels == Tissue.FAT)).all()
        each = regionprops(objects_there)
        assert [p.label for p in each] == list(mine["object"])
        assert [p.area for p in each] == list(mine["area_px"])
        np.testing.assert_allclose([p.centroid for p in each], mine[["y", "x"]], atol=1e-6)
    assert not cohort.verify().problems
    out = bytearray()  # GeoJSON has the outlines of vacuoles, not those of classes
    write_features(
        cohort.store, "segment_objects", cohort.arrow_table("segment_objects"), out.extend
    )
    features = json.loads(out)["features"]
    assert len(features) == len(objects)
    assert {f["properties"]["classification"]["name"] for f in features} == {"segment_objects"}


def test_a_table_of_objects_takes_memory_as_there_are_objects() -> None:
    count = 4_000
    columns = [pa.array(np.ones(count, np.int64)).cast(field.type) for field in PIECES]
    pieces = pa.StructArray.from_arrays(columns, fields=list(PIECES))
    objects = pa.table({
        "_image": [0], "source": ["a"], "class_name": ["fat"], "pixels": [count],
        "area_um2": [4.0 * count], "pieces": pa.ListArray.from_arrays([0, count], pieces),
        "runs": pa.array([[]], pa.list_(RUNS)),
    })  # fmt: skip
    usual = pa.default_memory_pool()
    pa.set_memory_pool(WATCHED)
    try:
        table = objects_table(objects, ["source"])
    finally:
        pa.set_memory_pool(usual)
    assert table.num_rows == count
    assert 0 < (WATCHED.max_memory() or 0) < 2_000 * count


def test_pictures_show_the_classes_and_their_legend(cohort: engine.Cohort, client: Client) -> None:
    cohort.run(engine.segment(), client=client)
    report = cohort.qc(engine.segment(), client=client)
    assert (report.shown, report.failed) == (3, 0)
    page = Path(report.page).read_text()
    for name, colour in (("bone", "#e69f00"), ("fat", "#f0e442"), ("other", "#0072b2")):
        assert f'background: {colour}"></i>{name}' in page
    assert "</i>background<" not in page, "what is no tissue stays as it is"
    grey = Shown(np.full((11, 10), 100, np.uint8), scale=2.0)
    labels = np.zeros((21, 20), np.uint8)
    labels[:, 10:] = 1
    shown, names = tint(grey, labels, engine.segment().label_classes)
    assert names == ["bone"]
    assert (shown.pixels[:, :5] == 100).all()
    assert tuple(shown.pixels[3, 7]) == (139, 118, 70)
    assert shown.pixels[3, 5, 0] > 200, "its border is clearer"


@needs_torch
def test_images_of_a_unit_share_batches_and_each_fails_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = engine.segment(model=str(bundle), device="cpu", batch=4)
    _, predictor = MODEL_CACHE.get(str(bundle), str(operation.weights), "cpu")
    sizes: list[int] = []
    answer = type(predictor).__call__

    def watched(self: Any, pixels: Any) -> Any:
        sizes.append(len(pixels))
        if (pixels == 77).all(axis=(1, 2, 3)).any():
            raise RuntimeError("a network that can't stand this image")
        return answer(self, pixels)

    monkeypatch.setattr(type(predictor), "__call__", watched)
    rng = np.random.default_rng(0)
    images = [Image(rng.integers(0, 255, (3, 64, 64)).astype(np.uint8)) for _ in range(11)]
    alone = [operation.measure(image) for image in images]
    sizes.clear()
    together = [found for found, _ in operation.measure_batch(iter(images))]
    assert sizes == [4, 4, 3]
    for one, each in zip(alone, together, strict=True):
        assert isinstance(each, dict)
        assert (np.asarray(one["labels"]) == each["labels"]).mean() > 0.999
    images[2] = Image(np.full((3, 64, 64), 77, np.uint8))
    images[5] = Image(images[5].pixels, spacing_um=(2.0, 2.0))
    mixed = [found for found, _ in operation.measure_batch(iter(images))]
    failed = {n: str(found) for n, found in enumerate(mixed) if isinstance(found, Exception)}
    assert failed.keys() == {2, 5}
    assert "other_pixel_size" in failed[5]
    assert all(np.array_equal(mixed[n]["labels"], together[n]["labels"]) for n in (0, 1, 8))


@needs_torch
def test_networks_run_where_the_gpus_slot_is_and_nowhere_else(
    cohort: engine.Cohort, bundle: Path
) -> None:
    operation = engine.segment(model=str(bundle), device="cpu", vacuole_radius_px=11)
    with connect_quietly(workers=3, processes=False) as client:
        workers = client.scheduler_info()["workers"].values()
        slots = {str(w["name"]) for w in workers if w["resources"].get("GPU") == 1}
        assert len(slots) == 1
        report = cohort.run(operation, client=client)
    assert (report.planned, report.failed) == (3, 0)
    parts = sorted(place_of(cohort).glob(f"results/segment/v3/*{report.key}/*.parquet"))
    mine = pd.concat([pq.ParquetFile(part).read().to_pandas() for part in parts])
    assert len(mine) == 4, "one image has two blocks"
    assert set(mine["worker"]) == slots
    assert set(mine["device"]) == {"cpu"}


def loads_here() -> int:
    """Return how many models this process has loaded."""
    return MODEL_CACHE.loads


@needs_torch
def test_each_process_that_segments_loads_the_model_once(
    cohort: engine.Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two processes, many units and two keys of one model."""
    monkeypatch.setattr(engine.runs.plan, "UNIT_IMAGES", 1)
    for n in range(8):
        put(tmp_path / f"data/i{n}.png", np.full((32, 48, 3), 9 * n, np.uint8))
    small = engine.create(tmp_path / "c", layout="{name}")
    with (tmp_path / "c/cohort.toml").open("a") as toml:
        toml.write("\n[limits]\nshard_images = 1\n")
    first = engine.segment(model=str(bundle), device="cpu")
    with connect_quietly(
        where="local", workers=2, threads_per_worker=1, resources={"GPU": 1}
    ) as client:
        small.ingest(tmp_path / "data", client=client)
        assert set(client.run(loads_here).values()) == {0}
        for operation in (first, first.model_copy(update={"vacuole_radius_px": 7.0})):
            report = small.run(operation, client=client)
            assert (report.planned, report.failed) == (8, 0)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        loads = {str(workers[at]["name"]): n for at, n in client.run(loads_here).items()}
    parts = [*Path(small.store.url).glob("results/segment/v3/*/*.parquet")]
    units = pd.concat(
        pq.ParquetFile(part).read(["worker"]).to_pandas().drop_duplicates() for part in parts
    )
    assert len(units) >= 8, "many units"
    assert loads == dict.fromkeys(units["worker"].unique(), 1)


@needs_torch
def test_other_weights_are_another_key(bundle: Path, tmp_path: Path) -> None:
    import safetensors.torch

    from engine.kernels.networks.factory import create_network

    other = safetensors.torch.save(create_network("unet", {"width": 2}, 3, 4).state_dict())
    changed = write_bundle(tmp_path / "other", CARD, other).directory
    keys = {engine.segment(model=str(m)).key for m in (bundle, changed)}
    assert len({*keys, engine.segment().key}) == 3


@needs_torch
def test_a_model_with_other_weights_than_its_card_says_is_refused_before_any_task(
    bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "weights.safetensors").write_bytes(b"something else")
    with pytest.raises(WeightsRefused, match="SHA-256"):
        engine.segment(model=str(broken))
    with pytest.raises(CardError, match="no model there"):
        engine.segment(model=str(tmp_path / "nothing"))
    with pytest.raises(ParameterError, match="cpu or cuda"):
        engine.segment(device="tpu")


@needs_torch
def test_a_worker_without_the_model_ends_the_run_and_leaves_no_row(
    cohort: engine.Cohort, bundle: Path, client: Client, tmp_path: Path
) -> None:
    """As where the model's folder is not there on another machine."""
    vanishing = tmp_path / "vanishing"
    shutil.copytree(bundle, vanishing)
    card = CARD.model_copy(update={"name": "vanishing"})
    shutil.rmtree(vanishing)
    weights = (bundle / "weights.safetensors").read_bytes()
    write_bundle(vanishing, card, weights)
    operation = engine.segment(model=str(vanishing))
    digest = str(operation.weights)
    shutil.rmtree(vanishing)
    with pytest.raises(WorkerUnfit, match="no model there"):
        ModelCache().get(str(vanishing), digest)
    write_bundle(vanishing, CARD, weights)
    with pytest.raises(WorkerUnfit, match="another one than was planned"):
        ModelCache().get(str(vanishing), digest)


@needs_torch
def test_what_a_model_was_not_made_for_fails_the_image(bundle: Path) -> None:
    operation = engine.segment(model=str(bundle), device="cpu")
    pixels = np.zeros((3, 64, 64), np.uint8)
    assert set(operation(pixels)["label"]) == set(range(4))
    found = operation.measure(Image(pixels, spacing_um=(4.2, 3.8)))
    assert found["area_um2"][0] is not None
    with pytest.raises(ImageFailed, match="other_pixel_size"):
        operation.measure(Image(pixels, spacing_um=(2.0, 2.0)))
    with pytest.raises(ImageFailed, match="other_channels"):
        operation.measure(Image(pixels[:2]))
    with pytest.raises(ImageFailed, match="other_channels"):
        operation.measure(Image(np.zeros((4, 64, 64), np.uint8), (1.0,) * 4))  # four stains
    assert operation.measure(Image(np.zeros((4, 64, 64), np.uint8), (1.0,) * 5)), "and alpha"
    for coloured in (operation, engine.segment()):
        with pytest.raises(ImageFailed, match="other_channels"):
            coloured.measure(Image(pixels, (1.0,) * 3))  # three stains


@needs_torch
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_value_that_is_no_number_fails_the_image(
    bundle: Path, trained: bool, value: float
) -> None:
    operation = engine.segment(model=str(bundle), device="cpu") if trained else engine.segment()
    pixels = np.zeros((3, 64, 64), np.float64)
    operation.measure(Image(pixels))
    pixels[1, 20, 30] = value
    with pytest.raises(ImageFailed, match="values_not_finite"):
        operation.measure(Image(pixels))


@needs_torch
@pytest.mark.parametrize(
    ("dtype", "brightest", "fits"),
    [
        ("uint8", 1, True),
        ("uint8", 255, True),
        ("uint16", 255, True),
        ("uint16", 256, False),
        ("float32", 255.0, True),
        ("float32", 256.0, False),
        ("float32", 1.0, False),
        ("float32", 0.0, True),
    ],
)
def test_grey_levels_of_another_scale_fail_the_image(
    bundle: Path, dtype: str, brightest: float, fits: bool
) -> None:
    operation = engine.segment(model=str(bundle), device="cpu")
    pixels = np.zeros((3, 64, 64), dtype)
    pixels[0, 5, 6] = brightest
    if fits:
        operation.measure(Image(pixels))
        return
    with pytest.raises(ImageFailed, match="other_values"):
        operation.measure(Image(pixels))


@needs_torch
def test_blocks_answer_as_the_whole(bundle: Path) -> None:
    operation = engine.segment(model=str(bundle), device="cpu")
    slide = MarrowSlide(MarrowOptions(images=1, size=(256, 384), scale=0.5, seed=5), 0).whole()
    whole = np.asarray(operation.measure(Image.of(slide.pixels))["pixels"])
    parts = []
    for region in ((0, 256), (256, 384)):
        write = engine.geometry.Region((0, region[0]), (256, region[1]))
        read = write.grow(operation.halo_px, (256, 384))
        image = Image(slide.pixels[:, *read.slices], origin=read.start, core_region=write)
        parts.append(np.asarray(operation.measure(image)["pixels"]))
    together = np.sum(parts, axis=0)
    assert together.sum() == whole.sum()
    assert np.abs(together - whole).sum() <= 0.002 * whole.sum()


@pytest.mark.gpu
@needs_torch
def test_a_gpu_segments_as_a_cpu_does(bundle: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    slide = MarrowSlide(MarrowOptions(images=1, size=(256, 384), scale=0.5, seed=5), 0).whole()
    ours, theirs = (
        engine.segment(model=str(bundle), device=device).measure(Image.of(slide.pixels))
        for device in ("cpu", "cuda")
    )
    assert (np.asarray(ours["labels"]) == np.asarray(theirs["labels"])).mean() >= 0.999
    assert theirs["memory_peak_bytes"][0] > 0


def test_an_onnx_graph_runs_through_segment(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph can be made")
    from onnx import TensorProto, helper, numpy_helper

    # Scores that are the colours themselves: red wins where the slide is red.
    kernel = np.eye(3, dtype=np.float32)[:, :, None, None]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["y"])],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [numpy_helper.from_array(kernel, "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    classes = [{"name": n, "colour": "#000000"} for n in ("red", "green", "blue")]
    card = Card.model_validate({"name": "c", "architecture": "onnx", "classes": classes})
    made = write_bundle(tmp_path / "colours", card, model.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 255, (3, 90, 70)).astype(np.uint8)
    labels = engine.segment(model=str(made.directory), device="cpu").segment(pixels)
    assert (labels == pixels.argmax(0)).mean() > 0.99


def test_a_graph_out_of_a_package_runs_unchanged(tmp_path: Path) -> None:
    """Exported by PyTorch for the tests of onnx: 10 planes of 32 x 32, always two at once."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph is there")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    data = Path(onnx.__file__).parent / "backend/test/data/pytorch-operator"
    graph = (data / "test_operator_symbolic_override/model.onnx").read_bytes()
    names = [f"c{n}" for n in range(10)]
    card = Card(
        name="elsewhere", architecture="onnx", channels=tuple(names), mean=(0,) * 10, sd=(1,) * 10,
        classes=tuple(ClassCard(name=n, colour="#000000") for n in names), tile_px=32, halo_px=0,
    )  # fmt: skip
    made = write_bundle(tmp_path / "elsewhere", card, graph)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (10, 32, 32)).astype(np.uint8) for _ in range(3)]
    operation = engine.segment(model=str(made.directory), device="cpu")
    found = [f for f, _ in operation.measure_batch(map(Image, images))]
    session = onnxruntime.InferenceSession(graph)
    name = session.get_inputs()[0].name
    for pair in ((0, 1), (2, 2)):
        said = session.run(None, {name: np.stack([images[n] for n in pair]).astype(np.float32)})[0]
        for n, planes in zip(pair, said, strict=True):
            assert not isinstance(found[n], Exception)
            assert np.array_equal(found[n]["labels"], planes.argmax(0))


def test_classes_are_named_in_the_order_of_labels() -> None:
    frame: Any = engine.segment()(np.full((3, 40, 40), 235, np.uint8))
    assert list(frame["class_name"]) == [tissue.name.lower() for tissue in Tissue]
    assert list(frame["label"]) == list(range(4))
