"""Scenes on bad disks and lost shares; run by `tests.unit.ingest.test_bad_disks`.

The library of ``tests/support/bad_sectors.c`` is preloaded, so that reads really fail, as on a bad
disk.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.errors import EngineError
from engine.ingest.discovery import RootGone, RootLost
from engine.learning.datasets.mask_files import MaskFolders
from engine.learning.datasets.masks import NoMask
from engine.store.catalog.annotations import read_annotations
from engine.store.catalog.tables import read_images
from tests.support.geojson_files import write_geojson
from tests.support.images import (
    LAYOUT,
    Counting,
    catalog,
    computed,
    connect_quietly,
    grey,
    put,
    states,
)

NUMBERS = ["EIO", "ESTALE", "EACCES", "EPERM", "ENXIO", "ETIMEDOUT", "EREMOTEIO"]
SHAPE = (150, 200)


class Disk:
    """A cohort with sources on a disk with configurable failures."""

    def __init__(self, base: Path, client: Client) -> None:
        self.base, self.client = base, client
        self.data = base / "data"
        self.cohort = engine.create(base / "cohort", layout=LAYOUT)
        self.heal()

    def fail(self, *rules: tuple[str, str, int, str]) -> None:
        """Make calls fail: (operation, errno, from which byte, part of the path)."""
        lines = [f"{what} {getattr(errno, e)} {at} 0 {path}\n" for what, e, at, path in rules]
        Path(os.environ["BAD_SECTORS"]).write_text("".join(lines))

    def fail_after(self, calls: int, what: str, number: str, path: str) -> None:
        """Make calls fail after a number of successes; once a process."""
        rule = f"{what} {getattr(errno, number)} 0 {calls} {path}\n"
        Path(os.environ["BAD_SECTORS"]).write_text(rule)

    def heal(self) -> None:
        """Remove all failures."""
        Path(os.environ["BAD_SECTORS"]).write_text("")

    def take(self, *sources: Path) -> engine.IngestReport:
        """Run an ingest."""
        return self.cohort.ingest(*sources, client=self.client)

    def named(self) -> dict[str, str]:
        """Return the problems that status reports, with the reasons."""
        failed = self.cohort.status().failures
        return {one.image_id: one.reason for one in failed if one.operation == "ingest"}


def sectors(disk: Disk) -> None:
    """Bad sectors and refusals anywhere in a file cost only that file, by name, until they heal."""
    names = [f"data/d1/s1/e1/i{n}.png" for n in range(24)]
    paths = [put(disk.base / name, grey(n, SHAPE)) for n, name in enumerate(names)]
    pages = np.stack([grey(50 + n, SHAPE) for n in range(4)])
    tiff = put(disk.data / "d1/s2/e1/pages.tif", pages, photometric="minisblack", metadata=None)
    put(disk.data / "d1/s3/e1/photo.jpg", grey(60, SHAPE))
    put(disk.data / "d1/s4/e1/hidden.png", grey(61))
    put(disk.data / "d1/s5/e1/half.png", grey(62))
    size = paths[0].stat().st_size
    rules = [("read", number, 0, names[n]) for n, number in enumerate(NUMBERS)]
    rules += [("read", number, size // 2, names[7 + n]) for n, number in enumerate(NUMBERS)]
    rules += [("read", "EIO", size - 20, names[14]), ("open", "EACCES", 0, names[15])]
    rules += [("open", "ESTALE", 0, names[16]), ("stat", "EIO", 0, names[17])]
    rules += [("open", "ENOENT", 0, names[18])]
    rules += [("read", "EIO", tiff.stat().st_size * 3 // 4, "pages.tif")]
    rules += [("read", "EIO", 4096, "photo.jpg"), ("list", "EIO", 0, "d1/s4")]
    disk.fail(*rules)
    report = disk.take(disk.data)
    bad = {*names[:19], "data/d1/s3/e1/photo.jpg", "data/d1/s4/"}
    bad |= {name for name in disk.named() if "pages.tif" in name}
    assert disk.named() == {name: "vanished" if name == names[18] else "unreadable" for name in bad}
    assert report.failed == len(bad)
    assert {"unreadable": len(bad) - 1, "vanished": 1} == dict(report.reasons)
    details = {row["image_id"]: row["detail"] for row in catalog(disk.cohort).values()}
    for n, number in enumerate(NUMBERS):
        assert number in details[names[n]]
        assert number in details[names[7 + n]]
    ready = [name for name, state in states(disk.cohort).items() if state == "ready"]
    assert {*names[19:], "data/d1/s5/e1/half.png"} <= {*ready}
    assert sum("pages.tif" in name for name in ready) in (0, 3), "pages before the bad sector"
    again = disk.take()
    assert (again.new, again.orphaned) == (0, 0), "nothing heals by being tried"
    disk.heal()
    healed = disk.take()
    assert (healed.failed, healed.orphaned, healed.left) == (0, 0, 0)
    assert disk.named() == {}
    images = disk.cohort.images()
    for n, name in enumerate(names):
        assert np.array_equal(images.by_id(name).values[0], grey(n, SHAPE))
    for n in range(4):
        page = images.by_id(f"data/d1/s2/e1/pages.tif#{n}").values[0]
        assert np.array_equal(page, grey(50 + n, SHAPE))
    assert disk.take().unchanged == 28


def known(disk: Disk) -> None:
    """Existing images stay while their source is unreadable, and nothing is recomputed."""
    for n in range(12):
        put(disk.data / f"d1/s{n % 3}/e1/i{n}.png", grey(n, SHAPE))
    disk.take(disk.data)
    log = disk.base / "log"
    counting = Counting(log=str(log))
    disk.cohort.run(counting, client=disk.client)
    assert len(computed(log)) == 12
    before = states(disk.cohort)
    os.utime(disk.data / "d1/s0/e1/i3.png", (1, 1))
    disk.fail(
        ("stat", "EIO", 0, "s0/e1/i0.png"), ("list", "ESTALE", 0, "d1/s1"),
        ("read", "EIO", 0, "s0/e1/i3.png"),
    )  # fmt: skip
    report = disk.take()
    assert report.orphaned == 0
    assert states(disk.cohort) == {**before, "data/d1/s1/": "failed"}
    named = {f"data/d1/s0/e1/{name}": "unreadable" for name in ("i0.png", "i3.png")}
    assert disk.named() == {**named, "data/d1/s1/": "unreadable"}
    versions = [row["version"] for row in catalog(disk.cohort).values()]
    assert disk.take().failed == 1, "of what was listed before only the file that was tried counts"
    assert [row["version"] for row in catalog(disk.cohort).values()] == versions
    disk.cohort.run(counting, client=disk.client)
    assert computed(log) == [], "nothing is computed again"
    disk.fail(("stat", "ESTALE", 0, str(disk.data)), ("list", "ESTALE", 0, str(disk.data)))
    with pytest.raises(RootGone):
        disk.take()
    assert states(disk.cohort) == {**before, "data/d1/s1/": "failed"}
    disk.heal()
    healed = disk.take()
    assert (healed.failed, healed.orphaned) == (0, 0)
    assert {k: v for k, v in states(disk.cohort).items() if v != "retired"} == before
    assert disk.named() == {}


def stale(disk: Disk) -> None:
    """A share that disappears during reading is lost as a whole; other roots are ingested."""
    for n in range(12):
        put(disk.base / f"other/d1/s1/e1/i{n}.png", grey(1000 + n))
    disk.take(disk.base / "other")
    for n in range(12, 20):
        put(disk.base / f"other/d1/s1/e1/i{n}.png", grey(1000 + n))
    for n in range(160):
        put(disk.base / f"share/d1/s1/e1/i{n:03}.png", grey(n))
    with (disk.base / "cohort/cohort.toml").open("a") as toml:
        toml.write(f'\n[roots.share]\npath = "{disk.base}/share"\n')
    disk.fail_after(200, "open", "ESTALE", "share/d1/s1/e1/i")  # all headers, and some pixels
    with pytest.raises(RootLost, match="share"):
        disk.take()
    found = states(disk.cohort)
    assert sum(name.startswith("other/") for name in found) == 20
    assert {*found.values()} == {"ready"}
    assert 0 < sum(name.startswith("share/") for name in found) < 160
    disk.fail(("open", "ESTALE", 0, "share/d1/s1/e1"))  # from the first header on
    before = states(disk.cohort)
    with pytest.raises(RootLost):
        disk.take()
    assert states(disk.cohort) == before
    disk.fail(*[("read", "EIO", 0, f"i{n:03}.png") for n in range(120, 160)])  # too few for all
    report = disk.take()
    bad = {f"share/d1/s1/e1/i{n:03}.png" for n in range(120, 160)}
    assert report.failed == len(bad - {*before})
    disk.heal()
    disk.take()
    assert {*states(disk.cohort).values()} == {"ready"}
    assert len(states(disk.cohort)) == 180


def drawn(disk: Disk) -> None:
    """Drawings stay while their file is unreadable; unreadable masks are reported."""
    ring = np.array([[5.0, 5.0], [5.0, 15.0], [15.0, 15.0], [15.0, 5.0]])
    for n in range(4):
        put(disk.data / f"d1/s1/e1/i{n}.png", grey(n))
        path = disk.base / f"marks/d1/s1/e1/i{n}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_geojson({"inner": [ring]}))
        put(disk.base / f"masks/bone/d1/s1/e1/i{n}.png", np.eye(40, 48, dtype=np.uint8) * 255)
        put(disk.base / f"masks/fat/d1/s1/e1/i{n}.png", 255 - np.eye(40, 48, dtype=np.uint8) * 255)
    with (disk.base / "cohort/cohort.toml").open("a") as toml:
        toml.write(f'\n[annotations.marks]\npath = "{disk.base}/marks"\nformat = "geojson"\n')
    disk.take(disk.data)

    def there() -> int:
        refs = read_annotations(disk.cohort.store).of(list(states(disk.cohort)))
        return sum(map(len, refs.values()))

    assert there() == 4
    for n in range(3):
        os.utime(disk.base / f"marks/d1/s1/e1/i{n}.geojson", (1, 1))
    rules = [("read", "EIO", 0, "i0.geojson"), ("open", "ESTALE", 0, "i1.geojson")]
    disk.fail(*rules, ("stat", "EIO", 0, "marks/d1/s1/e1/i2.geojson"))
    report = disk.take().annotations
    assert report is not None
    assert (report.failed, report.retired) == (3, 0)
    assert there() == 4
    disk.fail(("list", "EIO", 0, "marks/d1/s1"))
    report = disk.take().annotations
    assert report is not None
    assert (report.retired, there()) == (0, 4)
    disk.heal()
    report = disk.take().annotations
    assert report is not None
    assert (report.failed, report.retired, there()) == (0, 0, 4)
    masks = MaskFolders(disk.base / "masks").open(
        disk.cohort.store, read_images(disk.cohort.store)[1]
    )
    disk.fail(("read", "EIO", 0, "bone/d1/s1/e1/i0.png"), ("stat", "ESTALE", 0, "fat/d1/s1/e1/i1"))
    for n, why in enumerate(("EIO", "")):
        with pytest.raises(NoMask, match=f"i{n}.png.*{why}"):
            masks.read(f"data/d1/s1/e1/i{n}.png")
    assert set(np.unique(masks.read("data/d1/s1/e1/i2.png"))) == {1, 2}
    disk.fail(("list", "EIO", 0, "masks/bone"))
    with pytest.raises(EngineError, match="bone"):
        MaskFolders(disk.base / "masks").open(disk.cohort.store, read_images(disk.cohort.store)[1])


SCENES: tuple[Callable[[Disk], None], ...] = (sectors, known, stale, drawn)


def main(name: str, base: Path) -> None:
    """Run one of the scenes."""
    warnings.simplefilter("ignore", ResourceWarning)
    scene = next(scene for scene in SCENES if scene.__name__ == name)
    how = {"workers": 1, "threads_per_worker": 1, "processes": False}
    with connect_quietly(**how) as client:
        scene(Disk(base, client))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
