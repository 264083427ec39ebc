"""Subjects' CSV file that cohort.toml names, and its join to the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from engine.errors import ConfigError
from engine.plain_files import NotAFile, read_plain
from engine.store.arrow import make_array
from engine.store.backend.base import Store
from engine.store.config import CohortConfig
from engine.store.digests import digest_bytes

ENTRY = "cohort.toml, subjects"
"""Location for error messages."""

CODE = r"^\s*0[0-9]+\s*$"
"""Pattern of codes, which stay text: as a number, 007 would become 7."""


def read_subjects(store: Store, config: CohortConfig) -> tuple[pa.Table | None, str | None]:
    """Return the subjects' table and the digest of its file, or None if no file is declared.

    Names are normalised by `subject_keys`, and rows without a name are dropped: spreadsheets add
    empty ones. A column of codes, such as 007, stays text.

    Parameters
    ----------
    store
        Storage of the cohort; a relative path starts there.
    config
        Content of cohort.toml.

    Raises
    ------
    ConfigError
        If the file can't be read, lacks a column ``subject``, or names a subject or a column twice.
    """
    if config.subjects is None:
        return None, None
    path = Path(config.subjects)
    local = store.as_local_path("")
    if not path.is_absolute() and local is not None:
        path = local / path
    try:
        data = read_plain(path)
        text = data.decode("utf-8-sig").encode()
        table = _parse(text)
    except UnicodeDecodeError:
        problem = f"{config.subjects} is not UTF-8; save it again as CSV in UTF-8"
        raise ConfigError(ENTRY, problem) from None
    except FileNotFoundError:
        raise ConfigError(ENTRY, f"there is no file {path}") from None
    except NotAFile as error:
        raise ConfigError(ENTRY, str(error)) from None
    except (OSError, pa.ArrowInvalid) as error:
        problem = f"{config.subjects} can't be read: {type(error).__name__}"
        raise ConfigError(ENTRY, problem) from None
    for name, times in Counter(table.column_names).items():
        if times > 1:
            raise ConfigError(ENTRY, f"{path.name} has {times} columns {name!r}")
    if "subject" not in table.column_names:
        hint = "; separate columns by commas" if ";" in table.column_names[0] else ""
        raise ConfigError(ENTRY, f"{path.name} has no column 'subject'{hint}")
    table = table.set_column(
        table.column_names.index("subject"), "subject", subject_keys(table["subject"])
    )
    first: dict[str, int] = {}
    for row, subject in enumerate(table["subject"].to_pylist(), start=2):  # below the header
        if subject and first.setdefault(subject, row) != row:
            told = f"{path.name} names a subject twice, in rows {first[subject]} and {row}"
            raise ConfigError(ENTRY, told)
    return table.filter(pc.not_equal(table["subject"], "")), digest_bytes(data)


def _parse(text: bytes) -> pa.Table:
    """Parse a CSV file: columns of only numbers or only dates as such, others as text."""
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    header = pyarrow.csv.open_csv(pa.BufferReader(text), parse_options=parsing).schema.names
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    raw = pyarrow.csv.read_csv(
        pa.BufferReader(text), parse_options=parsing, convert_options=as_text
    )
    codes = {
        name: pa.string()
        for name, column in zip(raw.column_names, raw.columns, strict=True)
        if name.strip() == "subject" or pc.any(pc.match_substring_regex(column, CODE)).as_py()
    }
    kinds = pyarrow.csv.ConvertOptions(column_types=codes)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text), parse_options=parsing, convert_options=kinds
    )
    # A column without any value has the type null, by which tables can't be joined or written.
    table = table.cast(
        pa.schema(
            pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type)
            for f in table.schema
        )
    )
    return table.rename_columns([name.strip() for name in table.column_names])


def subject_keys(names: pa.ChunkedArray) -> pa.ChunkedArray:
    r"""Return names in comparable form: without surrounding spaces, letters composed (NFC).

    A folder made on a Mac has ``ü`` as two characters, a CSV of the same name has one.

    Examples
    --------
    >>> subject_keys(pa.chunked_array([[" s1", "Mu\u0308ller"]])).to_pylist()
    ['s1', 'Müller']
    """
    return pc.utf8_normalize(pc.utf8_trim_whitespace(names), "NFC")


def mark_taken(subjects: pa.Table, taken: Collection[str]) -> pa.Table:
    """Append ``_of_subject`` to the columns of subjects whose names are in use."""
    used = {*taken} - {"subject"}
    names: list[str] = []
    for name in subjects.column_names:
        while name in used:
            name += "_of_subject"
        used.add(name)
        names.append(name)
    return subjects.rename_columns(names)


def join_subjects(rows: pa.Table, subjects: pa.Table) -> pa.Table:
    """Join the columns of subjects to rows, null for unknown subjects.

    Parameters
    ----------
    rows
        Rows with a column ``subject``.
    subjects
        Table from `read_subjects`; no column besides ``subject`` is also one of ``rows``.
    """
    places = {name: n for n, name in enumerate(subjects["subject"].to_pylist())}
    keys = subject_keys(rows["subject"]).to_pylist()
    found = subjects.take(make_array([places.get(key) for key in keys], pa.int64()))
    for name in found.column_names:
        if name != "subject":
            rows = rows.append_column(name, found[name])
    return rows
