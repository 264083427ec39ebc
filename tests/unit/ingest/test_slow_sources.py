"""A gzipped volume is inflated once, although its shards are tasks of their own."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.errors import SourceUnreadable
from engine.ingest import open_sources, worker
from engine.ingest.open_sources import OpenSources
from tests.support.images import catalog
from tests.support.inprocess_client import here

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel: pip install .[nifti]")
SLICES = 40


def test_a_gzipped_volume_is_inflated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sources.nifti import _Gzipped

    values = np.random.default_rng(0).integers(0, 9999, (30, 20, SLICES)).astype(np.int16)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "in/volume.nii.gz")
    inflated: list[int] = []
    whole = _Gzipped._open_checked
    monkeypatch.setattr(_Gzipped, "_open_checked", lambda it: inflated.append(1) or whole(it))
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    toml = tmp_path / "cohort/cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\nshard_bytes = 5000\n")
    with here() as client:
        assert cohort.ingest(tmp_path / "in", client=client).new == SLICES
    assert len({row["shard"] for row in catalog(cohort).values()}) == SLICES / 4
    assert inflated == [1]
    for image in cohort.images(stored=True):
        z = int(image.attrs["image_id"].rpartition("#")[2])
        np.testing.assert_array_equal(image.values[0], values[:, :, z].T)
    worker._SOURCES.close()


class Source:
    """A source that is slow to open, and what closes it."""

    def __init__(self, resources: ExitStack) -> None:
        self.slow_to_open = True
        self.closed = False
        resources.callback(setattr, self, "closed", True)


def test_one_idle_source_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = OpenSources()
    with sources.opened("a", Source) as first:
        with sources.opened("a", Source) as second:  # by another thread at the same time
            assert second is not first
        assert not second.closed
    assert second.closed, "one at most is kept"
    assert not first.closed
    with sources.opened("a", Source) as again:
        assert again is first
    with sources.opened("b", Source) as other:
        assert first.closed, "before another file is opened"
    with pytest.raises(SourceUnreadable), sources.opened("b", Source):
        raise SourceUnreadable("corrupt", "a plane")
    assert other.closed, "what failed is opened again"
    monkeypatch.setattr(open_sources, "KEPT_S", 0.05)
    with sources.opened("a", Source) as last:
        pass
    due = time.monotonic() + 10
    while not last.closed and time.monotonic() < due:
        time.sleep(0.01)
    assert last.closed
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
