"""The weights that come with the engine, on made slides that no training saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import engine
from engine.kernels.segmentation.tissue import Tissue
from engine.learning.evaluation.scores import confusion, densities_of, dice_of, relative_error
from engine.learning.models.bundle import open_bundle
from engine.learning.models.pretrained import WEIGHTS, pretrained_models, resolve_model
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowSlide

LARGEST_BYTES = 2_000_000

UNSEEN = MarrowOptions(images=3, size=(448, 352), seed=4_052_027)


def test_they_are_small_and_their_card_says_how_they_were_made() -> None:
    assert pretrained_models() == ("marrow",)
    bundle = open_bundle("marrow")
    assert len(bundle.read_weights()) < LARGEST_BYTES
    assert str(bundle.card.made_by).startswith("cohort train ")
    assert bundle.card.training_digest
    assert bundle.card.metrics["dsc_bone"] > 0.9


def test_a_name_is_a_model_and_a_path_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = engine.segment(model="marrow")
    assert named.model == "marrow", "what cohort.toml holds names no machine"
    assert named.key == engine.segment(model=str(WEIGHTS / "marrow")).key
    assert named.resources == {"GPU": 1}
    assert resolve_model("marrow") == WEIGHTS / "marrow"
    with pytest.raises(engine.EngineError, match="no model there"):
        engine.segment(model="./marrow")


def test_the_command_line_shows_them() -> None:
    from jobs.cli import app

    shown = CliRunner().invoke(app, ["model", "show", "marrow"])
    assert shown.exit_code == 0
    assert "Made by: cohort train" in shown.stdout


def test_they_beat_the_baseline_on_slides_that_no_training_saw() -> None:
    pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")
    dices, errors = {}, {}
    for model in ("marrow", "baseline"):
        operation = engine.segment(model=model, device="cpu")
        counts = []
        for number in range(UNSEEN.images):
            slide = MarrowSlide(UNSEEN, number).whole()
            counts.append(confusion(slide.labels, operation.segment(slide.pixels), len(Tissue)))
        dices[model] = np.mean([dice_of(c) for c in counts], axis=0)
        errors[model] = float(np.median([relative_error(*densities_of(c)) for c in counts]))
    print(dices, errors)
    assert (dices["marrow"][1:] >= 0.95).all()
    assert (dices["marrow"][1:] > dices["baseline"][1:]).all()
    assert errors["marrow"] < min(0.05, errors["baseline"])
