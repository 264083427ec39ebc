"""Where a table can be exported to, and what happens where it can't."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import engine
from engine.errors import EngineError, ParameterError, StoreFull, UsageError
from jobs.commands.export import WRITERS, require_target, without_formulas, write_export

ROWS = pa.table({"subject": ["007", 'a "b", c\n'], "radius_px": [1.5, None]})


@pytest.mark.parametrize("suffix", [*WRITERS, ".CSV"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_file_is_replaced_whole(tmp_path: Path, suffix: str, count: int) -> None:
    file = tmp_path / f"t{suffix}"
    file.write_bytes(b"something much longer than the table that comes" * 99)
    require_target(file)
    write_export(ROWS[:count], file)
    kind = suffix.lower()
    if kind == ".csv":
        found = pd.read_csv(file, dtype={"subject": str})
    else:
        found = (pd.read_parquet if kind == ".parquet" else pd.read_feather)(file)
    assert len(found) == count
    assert found["subject"].to_list() == ROWS["subject"].to_pylist()[:count]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_can_not_be_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, error, told in [
        ("folder.csv", UsageError, "is a folder"),
        ("no/t.csv", UsageError, "no folder"),
        ("t.xlsx", ParameterError, ".parquet"),
        ("t", ParameterError, ".parquet"),
    ]:
        with pytest.raises(error, match=told):
            require_target(tmp_path / name)
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone" / "t.csv")
    with pytest.raises(EngineError, match="No such file"):
        write_export(ROWS, tmp_path / "link.csv")
    write_export(ROWS[:2].append_column("corners", [[[1, 3], None]]), tmp_path / "t.csv")
    assert [*pd.read_csv(tmp_path / "t.csv")["corners"].fillna("")] == ["[1, 3]", ""]


def test_a_cohort_keeps_its_own_files(tmp_path: Path) -> None:
    cohort = engine.create(tmp_path / "c")
    (tmp_path / "c/tables/deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "c/tables")
    for place in ("c/tables/circles.parquet", "c/tables/deeper/t.csv", "link/t.csv"):
        with pytest.raises(UsageError, match="own files"):
            require_target(tmp_path / place, cohort.store)
    for place in ("t.csv", "c/t.csv"):
        require_target(tmp_path / place, cohort.store)


def test_a_full_disk_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(rows: pa.Table, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    file = tmp_path / "t.csv"
    file.write_text("as it was")
    monkeypatch.setitem(WRITERS, ".csv", full)
    with pytest.raises(StoreFull):
        write_export(ROWS, file)
    assert file.read_text() == "as it was"
    assert len(list(tmp_path.iterdir())) == 1


FORMULAS = [
    "=1+1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1",
    "\r=1", "\n=1", " =1", "\u00a0=1", "\ufeff=1", "\uff1d1", "a;=1+1", "a, =b", "a\t@b",
    "'=1", "''", ";';'x", "'s-Gravenhage",
]  # fmt: skip
HARMLESS = [
    "s-1", "a=b", "1e-5", "2018-03-01", "a,b", "O'Neil", 'a "b", c',
    "M\u00fcller", "", "007", '"=1"',
]  # fmt: skip


def read_back(file: Path) -> pd.DataFrame:
    """Read a CSV as docs/reference/conditions.md says."""
    frame = pd.read_csv(file, dtype={"subject": str}, keep_default_na=False)
    return frame.replace(r"(^|[;,\t\r\n])'", r"\1", regex=True)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_no_spreadsheet_executes_a_cell_and_pandas_reads_it_back(
    tmp_path: Path, kind: pa.DataType
) -> None:
    texts = [*FORMULAS, *HARMLESS]
    numbers = [-float(n) - 0.5 for n in range(len(texts))]
    rows = pa.table({"subject": pa.array(texts, kind), "-x": numbers, "=y": ["a"] * len(texts)})
    write_export(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        header, *cells = csv.reader(file)
    assert header == ["subject", "'-x", "'=y"]
    for text, (cell, number, _) in zip(texts, cells, strict=True):
        assert not cell.lstrip(" \u00a0\ufeff").startswith(tuple("=+-@\t\r\n\uff1d")), cell
        assert (cell == text) == (text in HARMLESS), "what is harmless stays as it is"
        assert float(number) < 0, "numbers stay numbers"
    found = read_back(tmp_path / "t.csv")
    assert found["subject"].to_list() == texts
    assert found["'-x"].to_list() == numbers
    write_export(rows, tmp_path / "t.csv", raw=True)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == texts


def test_any_text_is_read_back(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    texts = ["".join(rng.choices("=+-@\t\r\n';, \"ab", k=rng.randint(1, 8))) for _ in range(5_000)]
    rows = pa.table({"subject": texts})
    for cell in without_formulas(rows)["subject"].to_pylist():
        assert all(not part.lstrip().startswith(tuple("=+-@")) for part in cell.split(";")), cell
    write_export(rows, tmp_path / "t.csv")
    assert read_back(tmp_path / "t.csv")["subject"].to_list() == texts


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_formats_that_know_text_keep_it(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t{suffix}"
    write_export(pa.table({"=a": FORMULAS}), file)
    read = pd.read_parquet if suffix == ".parquet" else pd.read_feather
    assert read(file)["=a"].to_list() == FORMULAS
