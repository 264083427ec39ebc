"""Training: it learns, and however often it is killed it ends with the same weights."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client

import engine
from engine.errors import ParameterError
from engine.execution.progress import ProgressListener
from engine.learning.datasets.label_images import LabelImages
from engine.learning.datasets.masks import NoMask
from engine.learning.datasets.samples import Sample, sample_digest
from engine.learning.models.bundle import open_bundle
from engine.learning.models.card import tissue_classes
from engine.learning.training.settings import TrainingSettings
from engine.learning_drivers.train import TrainingStopped
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowSlide

torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")

from engine.learning.training.loop import run_training  # noqa: E402
from engine.learning.training.run_folder import (  # noqa: E402
    OtherTraining,
    TrainingBusy,
    TrainingDiverged,
    lock_folder,
)
from tests.support.images import put  # noqa: E402
from tests.support.training import train_aloud  # noqa: E402

SLIDES = MarrowOptions(images=3, size=(192, 160), scale=0.5, seed=13)
SETTINGS = TrainingSettings(
    options={"width": 4}, steps=24, batch=2, crop_px=64, validate_every=6, patience=1,
    learning_rate=0.02, tile_px=128, halo_px=32,
)  # fmt: skip
KILLS = 3


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    drawn = [MarrowSlide(SLIDES, n) for n in range(SLIDES.images)]
    bands = [(slide.name, slide.whole()) for slide in drawn]
    return [
        Sample(name, name[:2], b.pixels, b.labels, sample_digest(b.pixels, b.labels))
        for name, b in bands
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads, and the processes below have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_until_killed(folder: Path, samples: list[Sample], step: int, delay_s: float) -> int:
    """Train in a real process, and kill it some time after a step; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.training"])
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=train_aloud, args=(folder, samples, SETTINGS, told))
    process.start()
    told.close()
    try:
        while heard.recv() < step:
            pass
        time.sleep(delay_s)
        os.kill(int(process.pid or 0), signal.SIGKILL)
    except EOFError:  # it came to its end
        pass
    process.join()
    return int(process.exitcode or 0)


def kept(folder: Path) -> dict[str, Any]:
    """Return what a training made, by the byte; of pictures only that they are there."""
    models = ("best-loss", "best-density", "best-dsc", "last")
    cards = {name: open_bundle(folder / name) for name in models}
    return {
        **{name: (found.card, found.read_weights()) for name, found in cards.items()},
        "curves": (folder / "curves.parquet").read_bytes(),
        "picture": (folder / "curves.png").stat().st_size > 1000,
    }


@pytest.fixture(scope="module")
def whole(
    samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Return a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run_training(folder, samples[::-1], SETTINGS)  # the order of files says nothing
    torch.set_num_threads(before)
    return folder, kept(folder)


def test_it_learns_and_says_how_it_went(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, made = whole
    curves = pd.read_parquet(folder / "curves.parquet")
    assert curves.step.tolist() == [6, 12, 18, 24]
    assert curves.train_loss.iloc[-1] < 0.8 * curves.train_loss.iloc[0]
    assert curves.dsc.iloc[-1] > curves.dsc.iloc[0]
    best = made["best-loss"][0].metrics
    assert best["loss"] == pytest.approx(curves.loss.min(), abs=1e-5)
    assert best["step"] == curves.step[curves.loss.idxmin()]
    assert made["best-dsc"][0].metrics["dsc"] == pytest.approx(curves.dsc.max(), abs=1e-5)
    assert made["last"][0].metrics["step"] == 24
    assert made["last"][0].classes == tissue_classes()


def test_killed_at_three_random_moments_it_ends_with_the_same_weights(
    samples: list[Sample], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    folder = tmp_path / "killed"
    targets = sorted(moments.sample(range(2, 22), KILLS))
    codes = [train_until_killed(folder, samples, step, moments.random() * 0.05) for step in targets]
    assert codes == [-signal.SIGKILL] * KILLS
    report = run_training(folder, samples, SETTINGS)
    assert 0 < report.resumed_at < 24, "it went on from what was kept"
    found = kept(folder)
    for name, expected in whole[1].items():
        assert found[name] == expected, name
    left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert left == {".lock"}


@pytest.mark.parametrize("validate_every", [1, 6])
def test_what_is_no_number_is_said_and_never_kept(
    samples: list[Sample], tmp_path: Path, validate_every: int
) -> None:
    wild = {"learning_rate": 1e30, "validate_every": validate_every}
    with pytest.raises(TrainingDiverged, match="smaller --learning-rate"):
        run_training(tmp_path / "run", samples, SETTINGS.model_copy(update=wild))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


def test_stopped_it_goes_on_and_may_last_longer(samples: list[Sample], tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    short = SETTINGS.model_copy(update={"steps": 6})
    first = run_training(tmp_path / "run", samples, short, stop=stop)
    assert (first.step, first.models) == (4, {})
    second = run_training(tmp_path / "run", samples, short)
    assert (second.resumed_at, second.step) == (4, 6)
    longer = run_training(tmp_path / "run", samples, SETTINGS.model_copy(update={"steps": 8}))
    assert (longer.resumed_at, longer.step) == (6, 8)
    assert open_bundle(tmp_path / "run" / "last").card.metrics["step"] == 8
    other = SETTINGS.model_copy(update={"seed": 1})
    with pytest.raises(OtherTraining, match="settings"):
        run_training(tmp_path / "run", samples, other)
    darker = [
        Sample(s.name, s.subject, s.pixels[:, :, :] // 2, s.labels, f"{s.digest} darker")
        for s in samples
    ]
    with pytest.raises(OtherTraining, match="images"):
        run_training(tmp_path / "run", darker, SETTINGS)
    with lock_folder(tmp_path / "run"), pytest.raises(TrainingBusy):
        run_training(tmp_path / "run", samples, SETTINGS)


@pytest.fixture(scope="module")
def marrow(tmp_path_factory: pytest.TempPathFactory, client: Client) -> tuple[engine.Cohort, Path]:
    """Return a cohort of small slides, and the folder of their masks."""
    base = tmp_path_factory.mktemp("marrow")
    write_marrow(base / "made", SLIDES)
    cohort = engine.create(base / "cohort")
    cohort.ingest(base / "made" / "slides", layout="{subject}/{name}", client=client)
    return cohort, base / "made" / "masks"


class Trained(ProgressListener):
    """Knows whether any step was made."""

    made = 0

    def advance(self, stage: str, count: int, failed: int = 0) -> None:
        self.made += count * (stage == "train")

    def some(self) -> bool:
        return self.made > 0


def test_a_cohort_trains_a_model_that_segment_takes(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path, client: Client
) -> None:
    cohort, masks = marrow
    folder = tmp_path / "trained"
    settings = {**SETTINGS.model_dump(exclude={"augmentation"}), "steps": 6, "name": "small"}
    with pytest.raises(TrainingStopped, match="before a step") as stopped:
        cohort.train(folder, masks, settings, client=client, stop=lambda: True, device="cpu")
    assert stopped.value.exit_code == 130
    assert not folder.exists()
    long, reached = {**settings, "steps": 100_000}, []
    for _ in range(2):
        seen = Trained()
        with pytest.raises(TrainingStopped, match="goes on from there") as stopped:
            cohort.train(
                tmp_path / "long", masks, long,
                client=client, events=seen, stop=seen.some, device="cpu",
            )  # fmt: skip
        reached.append(stopped.value.args[1])
    assert 0 < reached[0] < reached[1] < 100_000
    report = cohort.train(
        folder, masks, settings, client=client, device="cpu", made_by="cohort train"
    )
    assert report["step"] == 6
    assert (report["trained"], report["held_out"]) == (2, 1)
    assert len(report["subjects_held_out"]) == 1
    assert not (folder / ".samples").exists()
    card = open_bundle(folder / "last").card
    assert (card.name, card.made_by) == ("small", "cohort train")
    assert card.training_digest
    assert card.spacing_um == pytest.approx(4.0, rel=0.01)
    run = cohort.run(engine.segment(model=str(folder / "last"), device="cpu"), client=client)
    assert (run.published, run.failed) == (3, 0)
    (held_out,) = report["subjects_held_out"]
    rows = cohort.table("segment_by_image").set_index("image_id")
    made = cohort.evaluate(tmp_path / "e", masks, str(folder / "last"), client=client)
    learnt = made.images.set_index("image_id")["learnt_from"]
    assert {rows.subject[i] for i in learnt.index[learnt == "no"]} == {held_out}
    assert (learnt == "image").sum() == 2
    assert f"--where 'subject in [\"{held_out}\"]'" in (made.overlap_warning or "")
    assert "flatter" in (tmp_path / "e" / "index.html").read_text()
    new = cohort.evaluate(
        tmp_path / "e", masks, str(folder / "last"), client=client, where=f"subject == '{held_out}'"
    )
    assert new.overlap_warning is None
    # What is begun with it begins where it ended, and is another training.
    finer = {**settings, "steps": 1, "learning_rate": 1e-9, "options": {}}
    more = {"client": client, "device": "cpu", "start": folder / "last", "made_by": "again"}
    cohort.train(tmp_path / "finer", masks, finer, **more)
    begun = open_bundle(tmp_path / "finer" / "last").card
    assert begun.options == {"width": 4}
    assert begun.made_by == "cohort train && again"
    assert begun.metrics["step"] == 1
    both = {open_bundle(tmp_path / where / "last").trained_on() for where in ("trained", "finer")}
    assert len(both) == 1, "the same images"
    with pytest.raises(OtherTraining, match="settings"):
        cohort.train(folder, masks, settings, **more)


def test_a_fusion_trains_is_kept_and_segments(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path, client: Client
) -> None:
    """Through the doors that people use; what `segment` says is what the network says."""
    from safetensors.torch import load

    from engine.kernels.networks.factory import create_network

    cohort, masks = marrow
    asked = {
        "architecture": "fusion", "options": {"width": 2, "blocks": [1, 1, 1, 1], "pool_px": 64},
        "steps": 2, "batch": 2, "crop_px": 32, "validate_every": 2, "learning_rate": 0.01,
        "tile_px": 256, "halo_px": 64,
    }  # fmt: skip
    cohort.train(tmp_path / "t", masks, asked, client=client, device="cpu")
    bundle = open_bundle(tmp_path / "t/last")
    assert (bundle.card.architecture, bundle.card.metrics["step"]) == ("fusion", 2)
    operation = engine.segment(model=str(tmp_path / "t/last"), device="cpu")
    run = cohort.run(operation, client=client, limit=1)
    assert (run.published, run.failed) == (1, 0)
    torch.manual_seed(0)  # as the training began
    network = create_network("fusion", dict(bundle.card.options), 3, 4).eval()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.load_state_dict(load(bundle.read_weights()))
    learnt = [not torch.equal(before[name], w) for name, w in network.named_parameters()]
    assert np.mean(learnt) > 0.95, "in all of its parts (a bias before a mean has no gradient)"
    image = cohort.images(stored=True)[0].values
    mean, sd = (np.reshape(v, (3, 1, 1)) for v in (bundle.card.mean, bundle.card.sd))
    with torch.inference_mode():
        scores = network(torch.from_numpy(((image - mean) / sd)[None].astype(np.float32)))
    due = scores[0].argmax(0).numpy()
    stored = np.bincount(due.ravel(), minlength=4)
    said = cohort.table(run.tables[0])["pixels"].to_numpy()
    assert np.abs(said - stored).sum() <= 0.002 * due.size
    assert (operation.segment(image) == due).mean() >= 0.999


def test_a_model_of_stains_is_asked_of_stains_only(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path, client: Client
) -> None:
    colours, masks = marrow
    for image in colours.images():
        name = image.attrs["source"].partition("/")[2]
        path = (tmp_path / "in" / name).with_suffix(".tif")
        put(path, image.values, imagej=True, metadata={"axes": "CYX"})
    stains = engine.create(tmp_path / "c", layout="{subject}/{name}")
    stains.ingest(tmp_path / "in", client=client)
    settings = {**SETTINGS.model_dump(exclude={"augmentation"}), "steps": 1}
    stains.train(tmp_path / "t", masks, settings, client=client, device="cpu")
    card = open_bundle(tmp_path / "t/last").card
    assert card.channels == ("channel_0", "channel_1", "channel_2")
    run = stains.run(engine.segment(model=str(tmp_path / "t/last"), device="cpu"), client=client)
    assert (run.published, run.failed) == (3, 0)
    for model in ("marrow", "baseline"):
        run = stains.run(engine.segment(model=model, device="cpu"), client=client)
        assert run.reasons == {"other_channels": 3}
        with pytest.raises(engine.EngineError, match=r"in/s1/.*channels do not suit.*--where"):
            stains.evaluate(tmp_path / "e", masks, model, where="subject == 's1'", client=client)


@pytest.mark.parametrize(("value", "told"), [(np.nan, "nan"), (200.0, "200"), (-0.1, "-0.1")])
def test_floats_beyond_black_and_white_are_not_learnt_from(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path, client: Client, value: float, told: str
) -> None:
    slides, masks = marrow
    for n, image in enumerate(slides.images()):
        name = image.attrs["source"].partition("/")[2]
        shares = np.moveaxis(image.values, 0, 2).astype(np.float32) / 255
        shares[5, 6, 1] = value if n == 1 else shares[5, 6, 1]
        put((tmp_path / "in" / name).with_suffix(".tif"), shares, photometric="rgb")
    floats = engine.create(tmp_path / "c", layout="{subject}/{name}")
    floats.ingest(tmp_path / "in", client=client)
    settings = {**SETTINGS.model_dump(exclude={"augmentation"}), "steps": 1}
    with pytest.raises(ParameterError, match=rf"{told}.*between 0 and 1"):
        floats.train(tmp_path / "t", masks, settings, client=client, device="cpu")


def test_what_can_not_be_learnt_from_is_said_before_a_cluster_starts(
    marrow: tuple[engine.Cohort, Path], tmp_path: Path
) -> None:
    cohort, masks = marrow
    with pytest.raises(engine.EngineError, match="1 subject"):
        cohort.train(tmp_path / "t", masks, where="subject == 's1'")
    with pytest.raises(NoMask):
        cohort.train(tmp_path / "t", masks / "bone")
    with pytest.raises(engine.EngineError, match="label image"):
        cohort.train(tmp_path / "t", LabelImages("nothing"))
    assert not np.any([*tmp_path.iterdir()])
