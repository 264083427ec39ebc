"""Tables as files of other programs, by suffix; a file appears whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

from engine.errors import ParameterError, UsageError
from engine.store.refusals import refusals_named
from engine.store.root import Root

WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": lambda rows, path: pyarrow.csv.write_csv(rows, path),
    ".parquet": lambda rows, path: pq.write_table(rows, path),
    ".arrow": lambda rows, path: pyarrow.feather.write_feather(rows, path),
}
"""What writes a table, by suffix."""


def require_target(file: Path, root: Root | None = None) -> None:
    """Check that a table can become this file.

    Parameters
    ----------
    root
        The cohort whose table it is. Files in its folders are its own.

    Raises
    ------
    ParameterError, UsageError
        If the suffix is unknown, the folder is not there, the file is a folder, or the cohort's.
    """
    if file.suffix.lower() not in WRITERS:
        raise ParameterError("FILE", str(file), f"a name ending in {', '.join(WRITERS)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}; make it first.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give the name of a file.")
    own = root.local_path("tables") if root is not None else None
    if own is not None and own.parent.resolve() in file.resolve().parent.parents:
        raise UsageError(f"{file} would be among the cohort's own files; choose another folder.")


def write_export(rows: pa.Table, file: Path) -> None:
    """Write a table to a file, which is replaced whole.

    Raises
    ------
    UsageError
        If the format can't hold a column, or the file can't be written.
    StoreFull, StoreReadOnly
    """
    suffix = file.suffix.lower()
    nested = [f"{f.name} ({f.type})" for f in rows.schema if pa.types.is_nested(f.type)]
    if suffix == ".csv" and nested:
        raise UsageError(f"CSV can't hold {', '.join(nested)}; use .parquet or .arrow.")
    target = file.resolve()  # a link stays one
    aside = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{suffix}")
    try:
        with refusals_named(str(file)):
            WRITERS[suffix](rows.replace_schema_metadata(None), aside)
            aside.replace(target)
    except OSError as error:
        if error.errno is None:
            raise
        raise UsageError(f"{file} can't be written: {error.strerror}.") from None
    finally:
        aside.unlink(missing_ok=True)
