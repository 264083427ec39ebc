"""Columns of tables on disk, which format 1 fixes, and the rows that are written to them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.store.catalog import annotations
from engine.store.catalog.annotations import AnnotationRow, annotation_table
from engine.store.catalog.tables import IMAGES, SHARDS, ImageRow, ShardRow, image_table, shard_table
from engine.store.pictures import SCHEMA as PICTURES
from engine.store.pictures import Picture, index_bytes, parse_index
from engine.store.results import PLANNED, result_schema
from engine.store.rows import rows_of

GOLDEN = Path(__file__).with_name("format_1_columns.txt")
"""Columns as the first release of format 1 wrote them. Never change this file."""

IMAGE = ImageRow(
    image_id="r/a.dcm", state="ready", source="r/a.dcm", fields={"subject": "s", "date": "d"},
    version=3, detail="x", size=1, mtime_ns=2, ctime_ns=3, content="c", channels=1, height=5,
    width=6, dtype="uint8", spacing_y_um=0.5, stack="st", shard=0, t=1, z=2, giant=True,
    noise_sd=(1.0, 2.0), position_mm=(1.0, 2.0, 3.0), header={"rows": "5"}, findings=("a", "b"),
)  # fmt: skip
FAILED = ImageRow(image_id="r/b.png", state="failed", source="r/b.png", reason="truncated")
SHARD = ShardRow("pixels/a/0/c/0", "a", 0, 1, "d", 10, 4)
DRAWN = AnnotationRow(
    image_id="r/a.dcm", state="ready", annotation="set", source="f.xml", structure="inner",
    version=2, size=7, digest="d", rings=((1.0, 2.0, 3.0, 4.0), ()),
)  # fmt: skip
SHOWN = Picture("overlay", "r/a", "m", "overlays/a.jpg", 9, low=0.5, labels=("a", "b"))


def test_columns_are_those_of_format_1() -> None:
    schemas = {
        "images": IMAGES,
        "shards": SHARDS,
        "annotations": annotations.SCHEMA,
        "pictures": PICTURES,
        "results": result_schema(pa.schema([("radius_px", pa.float64())])),
        "planned": PLANNED,
    }
    lines = [f"{name}.{f.name}: {f.type}" for name, schema in schemas.items() for f in schema]
    assert "\n".join(lines) + "\n" == GOLDEN.read_text()
    assert all(f.nullable and not f.metadata for schema in schemas.values() for f in schema)


@pytest.mark.parametrize(
    ("rows", "write", "schema"),
    [
        ([IMAGE, FAILED], image_table, IMAGES),
        ([SHARD], shard_table, SHARDS),
        ([DRAWN], annotation_table, annotations.SCHEMA),
    ],
)
def test_rows_are_the_same_after_writing_reading_and_pickling(
    rows: list[Any], write: Any, schema: pa.Schema
) -> None:
    table = write(rows)
    assert table.schema.equals(schema, check_metadata=True)
    assert rows_of(table, type(rows[0])) == rows
    assert pickle.loads(pickle.dumps(rows)) == rows
    assert write([]).schema.equals(schema, check_metadata=True)


def test_values_are_in_the_columns_of_their_names() -> None:
    image, failed = image_table([IMAGE, FAILED]).to_pylist()
    assert image["fields"] == [("subject", "s"), ("date", "d")]
    assert (image["version"], image["noise_sd"], image["giant"]) == (3, [1.0, 2.0], True)
    assert (failed["fields"], failed["noise_sd"], failed["position_mm"]) == ([], [], None)
    assert annotation_table([DRAWN]).to_pylist()[0]["rings"] == [[1.0, 2.0, 3.0, 4.0], []]
    note = index_bytes([SHOWN])
    assert parse_index(note, "note") == {("overlay", "r/a"): SHOWN}
