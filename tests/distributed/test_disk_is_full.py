"""Fault 10, repeated: the disk of a cohort fills up at any moment, on real workers."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.contracts.small_disks import fill, small_disk
from tests.distributed.conftest import IMAGES, Lab, Right
from tests.distributed.invariants import check_catalog_once, check_files
from tests.distributed.test_driver_dies import catalogued

RUN_BYTES = 300_000
"""Approximate output of a run of the test operation, including its tables, bytes."""

INGEST_BYTES = 600_000


@pytest.mark.faults
@pytest.mark.fault(10, "disk full during a run")
@pytest.mark.parametrize("turn", range(13))
def test_a_run_on_a_full_disk(
    shared_lab: Lab, rng: random.Random, tmp_path: Path, turn: int
) -> None:
    lab = shared_lab
    with small_disk(tmp_path / "disk", "8m") as disk:
        shutil.move(lab.place, disk / "cohort")
        lab.place = disk / "cohort"
        leave = rng.randrange(RUN_BYTES) if turn else 0
        filling = fill(disk, leave)
        ended = lab.run("--pause-s", "0.01", commit_s=0.1)
        filling.unlink()
        print(f"{leave} bytes were left: {ended.code}")
        if ended.code:
            assert ended.code == 1, ended.err
            assert ended.values["error"] == "StoreFull"
            assert str(disk) in ended.err
        else:
            assert turn
        check_files(lab.place, settled=False)
        kept = {row["image_id"] for row in lab.rows()}
        resumed = lab.run()
        assert resumed.code == 0, resumed.err
        assert resumed.run["published"] == IMAGES - len(kept)
        lab.trial.lost += len(kept - {row["image_id"] for row in lab.rows()})
        lab.check()


@pytest.mark.faults
@pytest.mark.fault(10, "disk full during an ingest")
@pytest.mark.parametrize("turn", range(8))
def test_an_ingest_on_a_full_disk(
    empty_lab: Lab, rng: random.Random, tmp_path: Path, template: tuple[Path, Right], turn: int
) -> None:
    lab = empty_lab
    with small_disk(tmp_path / "disk", "8m") as disk:
        shutil.move(lab.place, disk / "cohort")
        lab.place = disk / "cohort"
        leave = rng.randrange(INGEST_BYTES)
        filling = fill(disk, leave)
        ended = lab.start_ingest(threads=2, commit_s=0.1).wait()
        filling.unlink()
        print(f"{leave} bytes were left: {ended.code}")
        if ended.code:
            assert ended.code == 1, ended.err
            assert ended.values["error"] == "StoreFull"
        check_files(lab.place, settled=False)
        resumed = lab.start_ingest(threads=2).wait()
        assert resumed.code == 0, resumed.err
        right, found = catalogued(template[0]), catalogued(lab.place)
        lab.trial.lost += len(right.keys() - found.keys())
        lab.trial.silent += len(found.items() - right.items())
        check_catalog_once(lab.place, IMAGES)
        assert found == right
        assert lab.run(threads=1).code == 0
        lab.check(threads=1)
