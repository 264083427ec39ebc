"""The subjects' CSV as spreadsheets write it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from engine.errors import ConfigError
from engine.store.backend.open import open_store
from engine.store.catalog.tables import IMAGES, READY
from engine.store.config import CohortConfig
from engine.store.results import result_schema
from engine.store.subjects import join_subjects, read_subjects
from engine.tables.build import TableContext, build_slice, finish_experiments
from tests.support.images import Counting


def read(folder: Path, data: bytes) -> pa.Table:
    """Read a CSV file of these bytes."""
    (folder / "s.csv").write_bytes(data)
    table, _ = read_subjects(open_store(folder), CohortConfig(subjects="s.csv"))
    assert table is not None
    return table


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"\xef\xbb\xbfsubject,age\r\n007,61\r\n", {"subject": ["007"], "age": [61]}),
        (b" subject , age\n s1 ,61\n", {"subject": ["s1"], "age": [61]}),
        (b"subject,age\ns1,61\n,\n,\n", {"subject": ["s1"], "age": [61]}),
        (b"subject,age\ns1,\ns2,\n", {"subject": ["s1", "s2"], "age": [None, None]}),
        (b"subject,age\n", {"subject": [], "age": []}),
        (b"subject,site\ns1,007\ns2,12\n", {"subject": ["s1", "s2"], "site": ["007", "12"]}),
        (b'subject,said\ns1,"a, ""b""\nc"\n', {"subject": ["s1"], "said": ['a, "b"\nc']}),
        ("subject,city\nMu\u0308ller,Köln\n".encode(), {"subject": ["Müller"], "city": ["Köln"]}),
    ],
)
def test_what_spreadsheets_write(
    tmp_path: Path, data: bytes, rows: dict[str, list[object]]
) -> None:
    assert read(tmp_path, data).to_pydict() == rows


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no file {tmp_path}/s.csv"):
        read_subjects(open_store(tmp_path), CohortConfig(subjects="s.csv"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("subject,city\ns1,Köln\n".encode("latin-1"), "not UTF-8"),
        ("subject,city\ns1,Köln\n".encode("utf-16"), "not UTF-8"),
        (b"subject,age,age\ns1,1,2\n", "2 columns 'age'"),
        (b"subject,subject\ns1,s2\n", "2 columns 'subject'"),
        (b"subject;age\ns1;1\n", "commas"),
        (b"subject\ns1\n s1 \n", "rows 2 and 3"),
    ],
)
def test_what_can_not_be_joined_is_said(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, data)


def test_folders_and_rows_meet_whatever_wrote_their_names() -> None:
    rows = pa.table({"subject": ["Mu\u0308ller", "s1 ", "S1", ""]})
    subjects = pa.table({"subject": ["s1", "Müller"], "age": [1, 2]})
    assert join_subjects(rows, subjects)["age"].to_pylist() == [2, 1, None, None]


def test_columns_of_subjects_keep_their_names_apart_and_their_values() -> None:
    operation = Counting(log="unused")
    large = 2**53 + 1  # no float is this number
    subjects = pa.table(
        {"subject": ["s1"], "count": [large], "count_of_subject": [2], "_image": [3], "n_done": [4]}
    )
    spec = TableContext(subjects=subjects)
    images = [
        {
            "image_id": name, "version": 1, "state": READY, "source": name, "content": name,
            "fields": [("subject", name)], "giant": False,
        }
        for name in ("s1", "s2")
    ]  # fmt: skip
    catalog = pa.Table.from_pylist(images, IMAGES)
    results = result_schema(operation.object_schema).empty_table()
    made = build_slice(operation, catalog, results, spec)
    made["experiments"] = finish_experiments(operation, made["experiments"], spec)
    for kind in ("images", "experiments"):
        table = made[kind].sort_by("subject")
        assert table["count_of_subject"].to_pylist() == [large, None], kind
        assert table["count_of_subject_of_subject"].to_pylist() == [2, None], kind
        assert table["_image_of_subject"].to_pylist() == [3, None], kind
        assert table["n_done"].to_pylist() == [4, None], kind
