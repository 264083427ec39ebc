from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import ParameterError
from engine.phantoms import DiscOptions, draw_disc_image, write_discs
from engine.phantoms.discs.files import MARK, TRUTH, TRUTH_SCHEMA

SMALL = DiscOptions(images=6, size=128, placement="separate", discs=(1, 3), radius_px=(8, 15))


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_files_hold_the_images_and_the_table_their_truth(tmp_path: Path) -> None:
    truth = write_discs(tmp_path / "set", SMALL)
    assert truth == tmp_path / "set" / TRUTH
    table = pq.read_table(truth)
    assert table.schema.equals(TRUTH_SCHEMA)
    rows = table.to_pylist()
    keys = [(r["date"], r["subject"], r["experiment"], r["name"], r["disc"]) for r in rows]
    assert keys == sorted(keys)
    for number in range(SMALL.images):
        image = draw_disc_image(SMALL, number)
        np.testing.assert_array_equal(iio.imread(truth.parent / image.path), image.pixels)
        mine = [r for r in rows if r["image_number"] == number]
        circles = [(r["y"], r["x"], r["radius_px"]) for r in mine]
        np.testing.assert_array_equal(circles, image.circles)  # as drawn, to the last bit
        assert [r["grey"] for r in mine] == image.grey.tolist()
        assert {f"{r['date']}/{r['subject']}/{r['experiment']}/{r['name']}.png" for r in mine} == {
            image.path
        }
        assert {(r["height"], r["width"], r["noise"]) for r in mine} == {(128, 128, 0.0)}


def test_again_gives_the_same_bytes_and_touches_nothing(tmp_path: Path) -> None:
    write_discs(tmp_path, SMALL)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_discs(tmp_path, SMALL)
    assert contents(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_any_map_in_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    def backwards(function: Callable[[int], Any], numbers: Iterable[int]) -> Iterable[Any]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(function, reversed(list(numbers))))

    write_discs(tmp_path / "a", SMALL)
    write_discs(tmp_path / "b", SMALL, apply=backwards)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_set_grows_and_shrinks_in_place(tmp_path: Path) -> None:
    more = DiscOptions(images=9, size=128, placement="separate", discs=(1, 3), radius_px=(8, 15))
    write_discs(tmp_path, SMALL)
    small = contents(tmp_path)
    write_discs(tmp_path, more)
    grown = contents(tmp_path)
    assert len(grown) == len(small) + 3
    assert {p: b for p, b in grown.items() if p in small and p.endswith(".png")} == {
        p: b for p, b in small.items() if p.endswith(".png")
    }
    write_discs(tmp_path, SMALL)
    assert contents(tmp_path) == small


@pytest.mark.parametrize(
    ("name", "made_before"),
    [
        ("notes.txt", False),
        (TRUTH, False),
        ("2018-03-01/s1/exp1/field-001.png", False),
        ("mine/a.png", True),
    ],
)
def test_folder_with_other_things_is_refused(tmp_path: Path, name: str, made_before: bool) -> None:
    if made_before:
        write_discs(tmp_path, SMALL)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ParameterError, match="directory"):
        write_discs(tmp_path, DiscOptions(images=1, size=64, placement="covering"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "mark", ["", "[]", "{}", '{"made_by": "someone", "options": {"images": 3}}']
)
def test_foreign_mark_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(ParameterError, match="directory"):
        write_discs(tmp_path, SMALL)


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ParameterError, match="directory"):
        write_discs(tmp_path / "file", SMALL)


@pytest.mark.parametrize("stop_at", [0, 2, 5])
def test_stopped_run_can_be_repeated(tmp_path: Path, stop_at: int) -> None:
    def failing(function: Callable[[int], Any], numbers: Iterable[int]) -> Iterable[Any]:
        for number in numbers:
            if number == stop_at:
                raise KeyboardInterrupt
            yield function(number)

    write_discs(tmp_path / "whole", SMALL)
    with pytest.raises(KeyboardInterrupt):
        write_discs(tmp_path / "stopped", SMALL, apply=failing)
    assert not (tmp_path / "stopped" / TRUTH).exists()
    write_discs(tmp_path / "stopped", SMALL)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
