"""Images whose source is gone: their rows stay, and they are in no batch, mean or lesson."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.errors import NothingFound
from engine.learning.datasets.mask_files import MaskFolders
from engine.tables.build import GROUP
from tests.support.images import LAYOUT, Counting, grey, put

ALL = [f"d1/s{n // 4}/e1/i{n}" for n in range(8)]
GONE = (ALL[0], ALL[2], *ALL[4:])  # half of one subject, and all of the other


@pytest.fixture(scope="module")
def bereft(
    tmp_path_factory: pytest.TempPathFactory, client: Client
) -> tuple[engine.Cohort, Counting, Path]:
    base = tmp_path_factory.mktemp("orphans")
    for n, name in enumerate(ALL):
        put(base / f"data/{name}.png", grey(n) // (n + 1))
        for tissue, kept in (("bone", np.s_[:20]), ("fat", np.s_[20:])):
            mask = np.zeros((40, 48), np.uint8)
            mask[kept] = 255
            put(base / f"masks/{tissue}/{name}.png", mask)
    cohort = engine.create(base / "cohort", layout=LAYOUT)
    counting = Counting(log=str(base / "log"))
    cohort.ingest(base / "data", client=client)
    cohort.run(counting, client=client)
    for name in GONE:
        (base / f"data/{name}.png").unlink()
    assert cohort.ingest(client=client).orphaned == len(GONE)
    cohort.run(counting, client=client)
    return cohort, counting, base


def test_means_are_of_what_is_there(bereft: tuple[engine.Cohort, Counting, Path]) -> None:
    cohort, counting, _ = bereft
    suffix = f"@{counting.key[:8]}"
    objects = cohort.table(f"counting{suffix}")
    assert objects["orphaned"].sum() == len(GONE)
    assert len(objects) == len(cohort.table(f"counting_by_image{suffix}")) == len(ALL)
    found = cohort.table(f"counting_by_experiment{suffix}")
    here = objects[~objects["orphaned"]].groupby(list(GROUP))["mean"]
    assert found["images"].tolist() == [4, 4]
    assert found["images_orphaned"].tolist() == [2, 4]
    assert found["count"].tolist() == [2, 0]
    assert found["mean_mean"][0] == pytest.approx(here.mean().iloc[0])
    assert found["mean_sd"][0] == pytest.approx(here.std().iloc[0])
    assert np.isnan(found["mean_mean"][1])


def test_batches_are_of_what_is_there(bereft: tuple[engine.Cohort, Counting, Path]) -> None:
    cohort, _, base = bereft
    here = {f"data/{name}.png" for name in {*ALL} - {*GONE}}
    masks = MaskFolders(base / "masks")
    for chosen in (None, "subject != 'nobody'", cohort.images()):
        for given in (None, masks):
            batches = cohort.batches(chosen, given, batch_size=3).numpy()
            names = list(itertools.chain(*(batch["image_id"] for batch in batches)))
            assert sorted(names) == sorted(here)
    everything = cohort.batches(masks=masks, batch_size=3, with_orphaned=True).numpy()
    assert sum(len(batch["image_id"]) for batch in everything) == len(ALL)
    with pytest.raises(NothingFound, match=r"orphaned.*with_orphaned=True"):
        cohort.batches([f"data/{ALL[0]}.png"])


def test_training_and_evaluation_are_of_what_is_there(
    bereft: tuple[engine.Cohort, Counting, Path], client: Client, tmp_path: Path
) -> None:
    cohort, _, base = bereft
    stored = MaskFolders(base / "masks")
    made = cohort.evaluate(tmp_path / "here", base / "masks", stored, client=client)
    assert len(made.images) == len(ALL) - len(GONE)
    made = cohort.evaluate(
        tmp_path / "all", base / "masks", stored, client=client, with_orphaned=True
    )
    assert len(made.images) == len(ALL)
    with pytest.raises(NothingFound, match="subject"):  # one alone can't be held out
        cohort.train(tmp_path / "t", base / "masks", client=client)
