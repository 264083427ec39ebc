"""Where a table can be exported to, and what happens where it can't."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import engine
from engine.errors import EngineError, ParameterError, StoreFull, UsageError
from jobs.exports import WRITERS, require_target, write_export

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
    with pytest.raises(UsageError, match=r"corners \(list.*parquet"):
        write_export(ROWS.append_column("corners", [[[1], [2]]]), tmp_path / "t.csv")


def test_a_cohort_keeps_its_own_files(tmp_path: Path) -> None:
    cohort = engine.create(tmp_path / "c")
    (tmp_path / "c/tables/deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "c/tables")
    for place in ("c/tables/circles.parquet", "c/tables/deeper/t.csv", "link/t.csv"):
        with pytest.raises(UsageError, match="own files"):
            require_target(tmp_path / place, cohort.root)
    for place in ("t.csv", "c/t.csv"):
        require_target(tmp_path / place, cohort.root)


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
