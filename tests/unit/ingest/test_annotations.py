"""What people drew: taken in with the images, matched to them, and an input like their pixels."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import ConfigError, NoSource, ParameterError
from engine.ingest.annotations.driver import AnnotationIngest
from engine.ingest.discovery import RootEmpty
from engine.operations.base import Image
from engine.store.catalog.annotations import annotations_ledger, read_annotations, read_contours
from jobs.messages import core as wording
from tests.support.geojson_files import write_geojson
from tests.support.images import Counting, computed, night


def box(size: float, at: float = 5.0) -> NDArray[np.float64]:
    return np.array([[at, at], [at, at + size], [at + size, at + size], [at + size, at]])


def draw(path: Path, **structures: NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_geojson({name: [ring] for name, ring in structures.items()}))
    return path


class Drawn(Counting):
    """Say what is drawn on each image."""

    name: ClassVar[str] = "drawn"
    object_schema: ClassVar[pa.Schema] = pa.schema(
        [("structure", pa.string()), ("points", pa.int64())]
    )
    averaged_columns: ClassVar[tuple[str, ...]] = ()

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return one object a contour."""
        super().measure(image)
        found = image.annotations
        return {
            "structure": [f"{c.annotation}:{c.structure}" for c in found],
            "points": [sum(len(ring) for ring in c.rings) for c in found],
        }


class Place:
    """A cohort of four images, with drawings beside it."""

    def __init__(self, base: Path, client: Client) -> None:
        self.client = client
        self.data, self.marks, self.log = base / "data", base / "marks", str(base / "log")
        night(self.data, 4)
        self.names = [f"d1/s{n % 2}/e1/i{n}.png" for n in range(4)]
        for n, name in enumerate(self.names[:3]):
            draw(self.marks / f"{name}.geojson", inner=box(9 + n), outer=box(20 + n))
        self.cohort = engine.create(base / "cohort")
        self.declare()

    def declare(self, **options: Any) -> None:
        toml = Path(self.cohort.store.url) / "cohort.toml"
        text = toml.read_text().split("\n[annotations")[0]
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
        toml.write_text(
            f'{text}\n[annotations.marks]\npath = "{self.marks}"\nformat = "geojson"\n{lines}'
        )

    def ingest(self) -> dict[str, int]:
        """Ingest, and return what became of drawings, without zeros."""
        report = self.cohort.ingest(self.data, client=self.client).annotations
        assert report is not None
        return {k: v for k, v in report.as_json().items() if v and not isinstance(v, (dict, list))}

    def run(self) -> list[str]:
        """Run, and return what was computed."""
        operation = Drawn(log=self.log)
        report = self.cohort.run(operation, client=self.client)
        assert report.failed == 0
        assert self.cohort.plan(operation).to_compute == 0
        return [source.removeprefix("data/") for source in computed(self.log)]


@pytest.fixture
def place(tmp_path: Path, client: Client) -> Place:
    return Place(tmp_path, client)


def test_an_edited_drawing_is_computed_again_and_no_other(place: Place) -> None:
    assert place.ingest() == {"listed": 3, "new": 6}
    assert place.run() == sorted(place.names)
    table = place.cohort.table("drawn@" + Drawn(log=place.log).key[:8])
    assert sorted(table["structure"]) == ["marks:inner"] * 3 + ["marks:outer"] * 3
    assert set(table["points"]) == {4}
    assert place.ingest() == {"listed": 3, "unchanged": 3}
    assert place.run() == []

    draw(place.marks / f"{place.names[1]}.geojson", inner=box(9.5), outer=box(21))  # one is moved
    assert place.cohort.plan(Drawn(log=place.log)).to_compute == 0  # not ingested yet
    assert place.ingest() == {"listed": 3, "unchanged": 2, "changed": 1}
    assert place.run() == [place.names[1]]
    # The same bytes at another time, or under another folder that ends alike: nothing is new.
    marked = place.marks / f"{place.names[1]}.geojson"
    os.utime(marked, (time.time() + 60, time.time() + 60))
    assert place.ingest() == {"listed": 3, "unchanged": 2}
    (place.marks / "d1" / "s0").rename(place.marks / "s0")
    assert place.ingest() == {"listed": 3, "unchanged": 1, "retired": 4, "new": 4}
    assert place.run() == []
    # A structure that is no longer drawn, a file that is gone, one that is back.
    draw(marked, outer=box(21))
    assert place.ingest() == {"listed": 3, "unchanged": 2, "retired": 1}
    assert place.run() == [place.names[1]]
    kept = marked.read_bytes()
    marked.unlink()
    assert place.ingest() == {"listed": 2, "unchanged": 2, "retired": 1}
    assert place.run() == [place.names[1]]
    marked.write_bytes(kept)
    assert place.ingest() == {"listed": 3, "unchanged": 2, "new": 1}
    assert place.run() == []  # as it was once before
    # Another origin of coordinates is another drawing of all that is drawn.
    place.declare(origin=0.0)
    assert place.ingest() == {"listed": 3, "changed": 5}
    assert place.run() == sorted(place.names[:3])
    assert place.cohort.verify().ok
    assert place.cohort.gc(older_than_s=0.0, dry_run=True) == ()


def test_drawings_of_no_image_and_broken_ones_are_counted_and_named(place: Place) -> None:
    draw(place.marks / "d1/s0/e1/i9.png.geojson", inner=box(9))
    (place.marks / "odd.geojson").write_bytes(b"{")
    draw(place.marks / f"{place.names[0].removesuffix('.png')}.geojson", inner=box(7))  # once more
    (place.marks / "notes.txt").write_text("nothing to do with it")
    counts = {"listed": 6, "ignored": 1, "new": 7, "unmatched": 1, "failed": 1}
    assert place.ingest() == {**counts, "refused": 3}  # and the one that is drawn twice
    report = place.cohort.ingest(place.data, client=place.client)
    assert report.refused == 0  # as it was before
    assert "1 no_image. The catalog has no image" in "\n".join(wording.ingest_lines(report))
    said = "\n".join(wording.status_lines(place.cohort.status()))
    assert "Drawings: 2 failed, 6 ready, 1 unmatched." in said
    assert "marks/odd.geojson: failed, not_numbers" in said
    state = place.cohort.status().annotations
    assert state is not None
    assert dict(state.states) == {"failed": 2, "ready": 6, "unmatched": 1}
    assert sorted((row["source"], row["reason"]) for row in state.troubled) == [
        ("marks/d1/s0/e1/i0.png.geojson", "twice"),  # the first by name counts
        ("marks/d1/s0/e1/i9.png.geojson", "no_image"),
        ("marks/odd.geojson", "not_numbers"),
    ]
    json.dumps(place.cohort.status().as_json())
    # The image comes later, the file is mended, the second drawing is taken away.
    (place.data / "d1/s1/e1/i1.png").rename(place.data / "d1/s0/e1/i9.png")
    (place.marks / "odd.geojson").unlink()
    (place.marks / f"{place.names[0].removesuffix('.png')}.geojson").unlink()
    assert {"unmatched", "failed"}.isdisjoint(place.ingest())
    state = place.cohort.status().annotations
    assert state is not None
    assert "unmatched" not in state.states
    assert "failed" not in state.states
    assert place.cohort.verify().ok


def test_folders_that_are_not_there_end_nothing(place: Place) -> None:
    place.ingest()
    marks = place.marks.rename(place.marks.with_name("elsewhere"))
    with pytest.raises(NoSource, match="marks"):
        place.ingest()
    assert "'marks' are not there" in place.cohort.status().absent[0]
    place.marks.mkdir()
    with pytest.raises(RootEmpty):
        place.ingest()
    place.marks.rmdir()
    marks.rename(place.marks)
    assert place.ingest() == {"listed": 3, "unchanged": 3}
    # What is no longer declared is retired.
    toml = Path(place.cohort.store.url) / "cohort.toml"
    toml.write_text(toml.read_text().split("\n[annotations")[0])
    assert place.ingest() == {"retired": 6}
    place.declare(origni=1)
    with pytest.raises(ParameterError, match="origni"):
        place.ingest()
    toml.write_text(toml.read_text().replace("geojson", "drawings"))
    with pytest.raises((ParameterError, ConfigError), match="drawings"):
        place.ingest()


def test_a_flipped_bit_in_a_drawing_is_named_and_never_computed_with(place: Place) -> None:
    place.ingest()
    (part,) = Path(place.cohort.store.url).glob("catalog/annotations/*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    problems = place.cohort.verify().problems
    assert [problem.kind for problem in problems if "annotations" in problem.path] == ["corrupt"]
    with pytest.raises(engine.errors.CorruptStore):
        place.cohort.plan(Drawn(log=place.log))


def test_an_ingest_that_is_stopped_says_what_is_left(place: Place) -> None:
    place.cohort.ingest(place.data, client=place.client)
    draw(place.marks / f"{place.names[3]}.geojson", inner=box(9))
    stopped = AnnotationIngest(
        place.cohort.store, place.cohort.config, place.client, "now", stop=lambda: True
    )
    report = stopped.run()
    assert report is not None
    assert (report.new, stopped.left) == (0, 1)
    assert place.ingest() == {"listed": 4, "unchanged": 3, "new": 1}
    (drawn,) = place.cohort.annotations_of(f"data/{place.names[3]}")
    assert (drawn.structure, drawn.rings[0].tolist()) == ("inner", box(9).tolist())
    assert place.cohort.annotations_of("data/none.png") == ()


def test_two_ingests_at_once_leave_one_row_a_drawing(place: Place) -> None:
    place.ingest()
    store = place.cohort.store
    drawn = read_annotations(store)
    # A second ingest that began before the first one had committed anything.
    late = AnnotationIngest(store, place.cohort.config, place.client, "late")
    ledger = annotations_ledger(store)
    whole = ledger.snapshot()

    class Before(type(ledger)):  # type: ignore[misc]
        asked = 0

        def snapshot(self) -> Any:
            Before.asked += 1
            return whole if Before.asked > 1 else type(whole)(whole.version - 1, ())

    late._ledger = Before(store, ledger.path, ledger.schema)
    late.run()
    again = read_annotations(store)
    assert again.refs == drawn.refs
    contours = read_contours(store, again.refs)
    assert {c.structure for found in contours.values() for c in found} == {"inner", "outer"}
    assert place.cohort.verify().ok
