"""Evaluation: figures against ones worked out by hand, and what people see of them."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from typer.testing import CliRunner

import engine
from engine.errors import Interrupted, ParameterError, UsageError
from engine.learning.datasets.masks import ContourMasks
from engine.learning.evaluation.bootstrap import bootstrap, mean_of, median_of
from engine.learning.evaluation.comparison import NothingShared, compare
from engine.learning.evaluation.error_maps import FALSE, MISSED, error_map
from engine.learning.evaluation.evaluation import (
    NoEvaluation,
    Scored,
    claim_place,
    evaluation_of,
    read_evaluation,
    require_place,
    write_evaluation,
)
from engine.learning.evaluation.overlap import describe_overlap
from engine.learning.evaluation.page import told_interval
from engine.learning.evaluation.scores import MARROW, confusion
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.store.backend.atomic_write import atomic_write
from jobs.cli import app

pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install .[segment]")

# Ten pixels each: what is drawn, and what is found.
TRUTH = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3, 3], np.uint8)
FOUND = np.array([0, 0, 1, 1, 1, 3, 2, 2, 3, 1], np.uint8)


def scored(name: str, truth: np.ndarray, found: np.ndarray, subject: str = "s1") -> Scored:
    counts = confusion(truth, found, 4)
    rows = tuple(tuple(int(n) for n in row) for row in counts)
    return Scored(name, name, subject, rows, f"errors/{name}.png")


PERFECT = scored("perfect", TRUTH, TRUTH)
OFF = scored("off", TRUTH, FOUND)


def test_figures_are_those_worked_out_by_hand() -> None:
    made = evaluation_of("m", MARROW, [PERFECT, OFF])
    assert made.images["name"].tolist() == ["off", "perfect"], "the worst first"
    off = made.images.iloc[0]
    # Bone: 4 drawn, 4 found, 3 both: 2 x 3 / 8. Other: 2 drawn, 2 found, 1 both.
    assert off[["dsc_background", "dsc_bone", "dsc_fat", "dsc_other"]].tolist() == [
        1, 0.75, 1, 0.5,
    ]  # fmt: skip
    assert off["dsc"] == pytest.approx((0.75 + 1 + 0.5) / 3)
    # Density: 4 of 8 pixels of tissue, both times.
    assert off[["density_true", "density_found", "density_error"]].tolist() == [0.5, 0.5, 0]
    figures = made.summary()
    assert figures["dsc_bone"].value == pytest.approx(0.875)
    assert (figures["dsc_bone"].low, figures["dsc_bone"].high) == (0.75, 1.0)
    for name in ("density_correlation", "density_limit_high"):  # two points lie on a line
        assert told_interval(name, figures[name]).startswith("n/a: needs 3 images")
    shares = made.shares()[0]
    assert shares[1].tolist() == [0, 7 / 8, 0, 1 / 8]
    assert np.allclose(shares.sum(axis=1), 1)


def test_densities_agree_as_bland_and_altman_say() -> None:
    less = scored("less", TRUTH, np.array([0, 0, 1, 1, 1, 3, 2, 2, 3, 3], np.uint8))
    more = scored("more", TRUTH, np.array([0, 0, 1, 1, 1, 1, 2, 2, 1, 3], np.uint8))
    figures = evaluation_of("m", MARROW, [PERFECT, less, more]).summary()
    # Found less drawn: 0, -1/8, +1/8; their standard deviation is 1/8.
    assert figures["density_bias"].value == pytest.approx(0)
    assert figures["density_limit_high"].value == pytest.approx(1.96 / 8)
    assert figures["density_error"].value == pytest.approx(0.25)
    assert np.isnan(figures["density_correlation"].value), "what was drawn does not vary"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for n in range(200):
        _, low, high = bootstrap(random.normal(3, 1, 40), mean_of, draws=400, seed=n)
        hits += bool(low <= 3 <= high)
    assert 180 <= hits <= 199


def test_what_is_not_known_is_left_out() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    assert mean_of(values).tolist()[0] == median_of(values).tolist()[0] == 2
    assert np.isnan(mean_of(values)[1])
    assert np.isnan(median_of(values)[1])
    nothing = scored("nothing", np.zeros(4, np.uint8), np.zeros(4, np.uint8))
    made = evaluation_of("m", MARROW, [nothing])
    assert np.isnan(made.summary()["dsc"].value)


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    made = evaluation_of("m", MARROW, [PERFECT, OFF])
    write_evaluation(tmp_path, made)
    again = read_evaluation(tmp_path)
    assert again.of == "m"
    pd.testing.assert_frame_equal(again.images, made.images)
    assert np.array_equal(again.counts, made.counts)
    summary = pd.read_parquet(tmp_path / "summary.parquet").set_index("figure")
    assert summary.loc["dsc_bone", "value"] == pytest.approx(0.875)
    with pytest.raises(NoEvaluation, match="cohort evaluate"):
        read_evaluation(tmp_path / "nothing")


def test_two_are_compared_in_pairs() -> None:
    first = evaluation_of("a", MARROW, [OFF, scored("x", TRUTH, FOUND)])
    second = evaluation_of("b", MARROW, [scored("off", TRUTH, TRUTH), PERFECT])
    differences, both = compare(first, second)
    assert both["image_id"].tolist() == ["off"], "the other images are not in both"
    bone = next(d for d in differences if d.figure == "dsc_bone")
    assert (bone.first, bone.second, bone.change.value) == (0.75, 1, 0.25)
    with pytest.raises(NothingShared, match="no image"):
        compare(first, evaluation_of("b", MARROW, [PERFECT]))


def test_images_that_a_model_has_met_are_told_from_new_ones() -> None:
    said = describe_overlap(["image", "image", "subject", "no"], ["s1", "s2", "s1", "s3"])
    assert said == (
        "Of the 4 images, 2 are among the images that the model learnt from and 1 is of their "
        "subjects: these figures flatter it. Evaluate with --where 'subject in [\"s3\"]'."
    )
    assert describe_overlap(["no", "no"], ["s1", "s2"]) is None
    assert describe_overlap([None], ["s1"]) is None, "nobody wrote what was learnt from"
    assert "None is of a subject" in (describe_overlap(["image"], ["s1"]) or "")


def test_false_pixels_are_red_and_missed_ones_green() -> None:
    blank = np.full((3, 1, 10), 255, np.uint8)
    drawn = error_map(blank, TRUTH[None], FOUND[None], 1)[0]
    assert tuple(drawn[9]) == FALSE
    assert tuple(drawn[5]) == MISSED
    assert (np.delete(drawn, (5, 9), axis=0) == 255).all()


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, client: Client
) -> tuple[engine.Cohort, Path]:
    """Return a cohort of small slides, and a folder with two evaluations of it."""
    base = tmp_path_factory.mktemp("evaluated")
    options = MarrowOptions(images=3, size=(192, 160), scale=0.5, seed=13)
    write_marrow(base / "made", options)
    cohort = engine.create(base / "cohort")
    cohort.ingest(base / "made" / "slides", layout="{subject}/{name}", client=client)
    masks = base / "made" / "masks"
    for name, radius_px in (("fine", 6.25), ("coarse", 20.0)):
        operation = engine.segment(vacuole_radius_px=radius_px)
        cohort.evaluate(base / name, masks, operation, client=client)
    return cohort, base


def test_a_cohort_is_evaluated_and_the_page_shows_the_worst_first(
    evaluated: tuple[engine.Cohort, Path],
) -> None:
    cohort, base = evaluated
    made = read_evaluation(base / "fine")
    assert made.of == "baseline"
    assert len(made.images) == 3
    truth = pd.read_parquet(base / "made" / "truth.parquet").set_index("subject")
    found = made.images.set_index("subject")
    assert np.allclose(found["density_true"], truth.loc[found.index, "bone_density"])
    # By the operation itself, alone, on one image.
    image = cohort.images("subject == 's2'")[0]
    labels = engine.segment(vacuole_radius_px=6.25).segment(image.values)
    areas = np.bincount(labels.ravel(), minlength=4)
    density = areas[1] / areas[1:].sum()
    assert found.loc["s2", "density_found"] == pytest.approx(density)
    page = (base / "fine" / "index.html").read_text()
    assert "baseline <span>against masks of 3 images" in page
    assert "rough for as few as 3" in page
    order = [page.index(picture) for picture in made.images["picture"]]
    assert order == sorted(order)
    assert made.images["dsc"].is_monotonic_increasing
    assert iio.imread(base / "fine" / "plots.png").shape[1] > 900
    assert iio.imread(base / "fine" / made.images["picture"][0]).shape[2] == 3


def test_the_finer_radius_is_the_better_one(evaluated: tuple[engine.Cohort, Path]) -> None:
    _, base = evaluated
    pair = read_evaluation(base / "coarse"), read_evaluation(base / "fine")
    change = {d.figure: d.change for d in compare(*pair)[0]}
    assert change["dsc"].value > 0


def test_other_classes_and_a_stop_are_said(
    evaluated: tuple[engine.Cohort, Path], tmp_path: Path, client: Client
) -> None:
    cohort, base = evaluated
    masks = base / "made" / "masks"
    with pytest.raises(Interrupted):
        cohort.evaluate(tmp_path, masks, "baseline", client=client, stop=lambda: True)
    with pytest.raises(engine.EngineError):
        cohort.evaluate(tmp_path, ContourMasks({"inner": 1}), client=client)
    assert not (tmp_path / "index.html").exists()


def test_the_command_line_shows_differences_and_asks_for_masks(
    evaluated: tuple[engine.Cohort, Path], tmp_path: Path
) -> None:
    _, base = evaluated
    call = CliRunner().invoke
    done = call(app, ["diff", f"{base}/coarse", f"{base}/fine", str(tmp_path / "d"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["images"] == 3
    figure = said["figures"]["dsc"]
    assert figure["change"]["value"] == pytest.approx(figure["b"] - figure["a"])
    page = (tmp_path / "d" / "index.html").read_text()
    first = page.partition('src="')[2].partition('"')[0]
    assert (tmp_path / "d" / first).resolve().is_relative_to(base / "coarse")
    assert len(pd.read_parquet(tmp_path / "d" / "differences.parquet")) == 3
    place = str(base / "cohort")
    for arguments in (
        ["train", place, str(tmp_path / "t")],
        ["evaluate", place, str(tmp_path / "e"), "--masks", "a", "--psd", "b"],
        ["train", place, str(tmp_path / "t"), "--contours", "inner"],
        ["train", place, str(tmp_path / "t"), "--masks", "a", "--crop-px", "1"],
        ["diff", str(tmp_path), str(tmp_path)],
    ):
        refused = call(app, arguments)
        assert refused.exit_code == 2, arguments
        assert "Traceback" not in refused.output


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "data" / "errors" / "theirs.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"")
    for folder in (tmp_path / "data", theirs):
        with pytest.raises(ParameterError, match="of an earlier evaluation"):
            require_place(folder)
    assert theirs.exists()
    stopped = tmp_path / "stopped"
    require_place(stopped)
    claim_place(stopped)
    require_place(stopped)
    with pytest.raises(NoEvaluation):
        read_evaluation(stopped)
    with pytest.raises(UsageError, match="can't be written"):
        atomic_write(theirs / "plots.png", b"")
