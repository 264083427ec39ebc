"""Equal pixels give equal rows, on any worker and in any batch (invariant 8)."""

from __future__ import annotations

import pytest

from tests.distributed.conftest import TOML, Lab
from tests.distributed.processes import Cluster


def test_two_threads(lab: Lab) -> None:
    done = lab.run(threads=2)
    assert done.code == 0, done.err
    lab.check(threads=1)


def test_two_workers(shared_lab: Lab) -> None:
    done = shared_lab.run()
    assert done.code == 0, done.err
    shared_lab.check()


@pytest.mark.parametrize("shard_images", [2, 64])
def test_other_units(empty_lab: Lab, session_cluster: Cluster, shard_images: int) -> None:
    lab = empty_lab
    lab.cluster = session_cluster
    toml = TOML.replace("shard_images = 4", f"shard_images = {shard_images}")
    assert toml != TOML
    (lab.place / "cohort.toml").write_text(toml)
    taken = lab.start_ingest().wait()
    assert taken.code == 0, taken.err
    done = lab.run()
    assert done.code == 0, done.err
    lab.check()
