"""The subjects' CSV that cohort.toml names: what joins the tables by subject."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from engine.errors import ConfigError
from engine.store.config import CohortConfig
from engine.store.digests import digest_bytes
from engine.store.root import Root

ENTRY = "cohort.toml, subjects"
"""Where errors are said to be."""


def read_subjects(root: Root, config: CohortConfig) -> tuple[pa.Table | None, str | None]:
    """Return the subjects' table and the digest of its file, or None where none is named.

    Parameters
    ----------
    root
        Where the cohort lives; a relative path starts there.
    config
        What cohort.toml says.

    Raises
    ------
    ConfigError
        If the file can't be read, lacks a column ``subject``, or names a subject twice.
    """
    if config.subjects is None:
        return None, None
    path = Path(config.subjects)
    local = root.local_path("")
    if not path.is_absolute() and local is not None:
        path = local / path
    try:
        data = path.read_bytes()
        kinds = pyarrow.csv.ConvertOptions(column_types={"subject": pa.string()})
        table = pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=kinds)
    except (OSError, pa.ArrowInvalid) as error:
        problem = f"{config.subjects} can't be read: {type(error).__name__}"
        raise ConfigError(ENTRY, problem) from None
    if "subject" not in table.column_names:
        raise ConfigError(ENTRY, f"{path.name} has no column 'subject'")
    if len(set(table["subject"].to_pylist())) != table.num_rows:
        raise ConfigError(ENTRY, f"{path.name} names a subject twice")
    return table, digest_bytes(data)
