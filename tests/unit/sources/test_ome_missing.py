"""Planes that an OME-TIFF or its set lacks are said: where no block, page or file has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.header import MISSING_PLANES
from tests.support.images import catalog, grey
from tests.unit.sources.test_odd_tiff import block, image, ome, pages, read

PAGE = (grey(1, (32, 48)), {})


@pytest.mark.parametrize(
    ("sizes", "named", "lacks"),
    [
        ((1, 3, 1), [{"Z": 0}, {"Z": 2}], True),  # a slice
        ((1, 2, 2), [{"Z": 0}, {"Z": 1}, {"T": 1}], True),  # a slice of one phase
        ((1, 1, 3), [{"T": 0}, {"T": 1}], True),  # the last phase
        ((2, 2, 1), [{"C": 0}, {"C": 1}, {"C": 0, "Z": 1}], True),  # a channel of one slice
        ((1, 3, 1), [{"Z": 0}, {"Z": 1}, {"Z": 2}], False),
        ((2, 2, 1), [{"C": 0}, {"C": 1}, {"C": 0, "Z": 1}, {"C": 1, "Z": 1}], False),
    ],
)
def test_planes_that_no_block_places(
    sizes: tuple[int, int, int], named: list[dict[str, int]], lacks: bool
) -> None:
    blocks = "".join(
        f'<TiffData IFD="{n}"' + "".join(f' First{a}="{i}"' for a, i in at.items()) + "/>"
        for n, at in enumerate(named)
    )
    found = read(pages([PAGE] * len(named), ome(image(*sizes, blocks))))
    assert {MISSING_PLANES in plane.findings for plane, _ in found} == {lacks}


def test_one_image_of_a_file_that_lacks_planes_says_nothing_of_the_other() -> None:
    whole = '<TiffData IFD="0" FirstZ="0"/><TiffData IFD="1" FirstZ="1"/>'
    part = '<TiffData IFD="2" FirstZ="1"/>'
    found = read(pages([PAGE] * 3, ome(image(1, 2, 1, whole) + image(1, 2, 1, part))))
    assert [p.findings for p, _ in found] == [(), (), (MISSING_PLANES,)]


def test_fewer_pages_than_tifffile_counted_are_said() -> None:
    text = '{"shape": [3, 32, 48], "axes": "ZYX"}'
    assert [p.findings for p, _ in read(pages([PAGE] * 2, text))] == [("counts_differ",)] * 2


def test_a_set_whose_file_is_missing_says_so_in_the_catalog_and_the_summary(
    tmp_path: Path, client: Client
) -> None:
    source = tmp_path / "in"

    def write(folder: str, there: tuple[int, ...], channels: bool = False) -> None:
        blocks = "".join(
            block(f"old/p{n}.ome.tif", f"urn:uuid:{n}", **{"C" if channels else "Z": n})
            for n in range(3)
        )
        sizes = (3, 1, 1) if channels else (1, 3, 1)
        (source / folder).mkdir(parents=True)
        for n in there:
            seed = len(list(source.rglob("*.tif")))
            own = ome(image(*sizes, blocks), f' UUID="urn:uuid:{n}"')
            content = pages([(grey(seed, (32, 48)), {})], own)
            (source / folder / f"p{n}.ome.tif").write_bytes(content)

    write("whole", (0, 1, 2))
    write("part", (0, 2))
    write("channels", (1, 2), channels=True)
    # Beside another set's file of the same name, and not in the folder that the writer had.
    write("alone", (1,))
    (source / "p0.ome.tif").write_bytes((source / "whole/p0.ome.tif").read_bytes())
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(source, client=client)
    assert report.failed == 0
    rows = {row["image_id"].split("/", 1)[1]: row for row in catalog(cohort).values()}
    lacking = {name for name, row in rows.items() if MISSING_PLANES in row["findings"]}
    expected = {"part/p0", "part/p2", "channels/p1", "channels/p2", "alone/p1", "p0"}
    assert lacking == {f"{name}.ome.tif" for name in expected}
    assert report.findings[MISSING_PLANES] == 6
    assert rows["part/p2.ome.tif"]["findings"] == [MISSING_PLANES]
    # The file comes, and all of the set is looked at again.
    (source / "part/p1.ome.tif").write_bytes((source / "whole/p1.ome.tif").read_bytes())
    cohort.ingest(source, client=client, rehash=True)
    rows = {row["image_id"].split("/", 1)[1]: row for row in catalog(cohort).values()}
    assert [list(rows[f"part/p{n}.ome.tif"]["findings"]) for n in range(3)] == [[]] * 3
    np.testing.assert_array_equal(cohort.images().by_id("in/part/p0.ome.tif")[0], grey(3, (32, 48)))
