"""Status of a cohort: existing, missing and failed results, each by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import ConfigError, UsageError
from engine.operations.base import Operation
from engine.operations.chains.binding import Binder
from engine.operations.functions.creation import create_operation
from engine.operations.registry import BrokenOperation, NoOperation
from engine.operations.spacings import known_spacing
from engine.runs.inputs import add_annotation_digests, join_inputs
from engine.sources.locations.base import FolderLocation, open_location
from engine.status.key_status import Failure, KeyResults, KeyStatus, empty_key_status
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.catalog import tables as catalog
from engine.store.catalog.annotations import AnnotationState, annotation_state, read_annotations
from engine.store.catalog.tables import read_images, shards_ledger
from engine.store.config import CohortConfig, read_config
from engine.store.maintenance.unreferenced import all_ledgers
from engine.store.subjects import read_subjects

INGEST = "ingest"
"""Pseudo-operation of failures to read a source."""

DRAWINGS = "annotations"
"""Pseudo-operation of failures to use an annotation."""

PLACE = (
    "state", "reason", "detail", "source", "fields", "content", "channels", "height", "width",
    "dtype", "spacing_y_um", "spacing_x_um", "stack", "shard", "t", "z", "giant", "noise_sd",
    "ingest", "rescale_slope", "rescale_intercept", "channel_names",
)  # fmt: skip
"""Catalog columns that a plan and a status read."""


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a cohort: its images, results and problems.

    ``images`` counts by state: ready, failed (an unreadable source), orphaned (source deleted) and
    retired (replaced or removed). ``last_ingest`` is the identifier of the last ingest with
    changes; it begins with the time, UTC. ``notes`` list checks that could not be made; ``absent``
    lists missing files and folders that cohort.toml names and the next ingest or run needs.
    ``spacings`` counts images with pixels by spacing (y, x), micrometres; None if unknown.
    ``annotations`` counts the annotations, and names those that belong to no image or can't be
    read. ``unusable`` names the declared operations that can't be created; ``notes`` say why.
    """

    images: Mapping[str, int]
    keys: tuple[KeyStatus, ...]
    failures: tuple[Failure, ...]
    last_ingest: str | None
    notes: tuple[str, ...] = field(default=())
    absent: tuple[str, ...] = field(default=())
    annotations: AnnotationState | None = None
    spacings: Mapping[tuple[float, float] | None, int] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """True if operations are declared and all have current results and tables."""
        declared = [key for key in self.keys if key.declared]
        tables = [table for key in declared for table in key.tables]
        return (
            not self.notes
            and bool(declared)
            and all(key.missing == 0 for key in declared)
            and all(table.there and not table.stale for table in tables)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the status as plain values."""
        return {
            "complete": self.complete,
            "images": dict(self.images),
            "spacings_um": [
                {"y": None if s is None else s[0], "x": None if s is None else s[1], "images": n}
                for s, n in self.spacings.items()
            ],
            "mixed_spacings": len(self.spacings) > 1,
            "operations": [asdict(key) for key in self.keys],
            "failed": [asdict(failure) for failure in self.failures],
            "last_ingest": self.last_ingest,
            "annotations": None if self.annotations is None else asdict(self.annotations),
            "notes": list(self.notes),
            "absent": list(self.absent),
        }


def read_status(store: Store) -> Status:
    """Report existing, missing and failed results; reads no pixels.

    Raises
    ------
    CorruptStore, MissingObject, ConfigError
    """
    config = read_config(store)
    snapshot_of_images, images = read_images(store, PLACE)
    # fails if the shards ledger is lost; its contents are not needed
    shards_ledger(store).snapshot()
    has_pixels = is_any(images["state"], [catalog.READY, catalog.ORPHANED])
    annotations = read_annotations(store)
    with_pixels = add_annotation_digests(images.filter(has_pixels), annotations)
    sources = dict(zip(images["image_id"].to_pylist(), images["source"].to_pylist(), strict=True))
    drawn = annotation_state(store)
    failures = [*_unreadable(images), *_unusable(drawn)]
    keys: list[KeyStatus] = []
    binder = Binder(store, config.operations)
    declared, unusable = _declared(config, binder)
    for ledger in all_ledgers(store):
        if not ledger.path.startswith("results/"):
            continue
        _, name, folder = ledger.path.split("/")
        snapshot = ledger.snapshot()
        for key in sorted({part.key for part in snapshot.parts if part.key is not None}):
            is_declared = name in declared and declared[name].key == key
            operation, note = (
                (declared[name], None) if is_declared else _operation(binder, name, folder, key)
            )
            if name in unusable:
                note = "rows are counted, not images"
            facts = KeyResults(
                store, ledger, snapshot, key, int(folder[1:]), is_declared, operation, note,
                annotations.version,
            )  # fmt: skip
            current = (
                with_pixels if operation is None else join_inputs(store, operation, with_pixels)
            )
            state, failed = facts.read(snapshot_of_images.version, current, sources)
            keys.append(state)
            failures += failed
    seen = {(state.operation, state.key) for state in keys}
    for name, operation in declared.items():
        if (name, operation.key) not in seen:
            current = join_inputs(store, operation, with_pixels)
            keys.append(empty_key_status(store, operation, current))
    ingests = [name for name in pc.unique(images["ingest"]).to_pylist() if name is not None]
    return Status(
        images=dict(sorted(Counter(images["state"].to_pylist()).items())),
        keys=tuple(sorted(keys, key=lambda s: (s.operation, not s.declared, s.version, s.key))),
        failures=tuple(sorted(failures, key=lambda f: (f.operation, f.key or "", f.image_id))),
        last_ingest=max(ingests, default=None),
        notes=tuple(unusable.values()),
        absent=tuple(_absent(store, config)),
        spacings=_spacings(images.filter(has_pixels)),
        annotations=drawn,
        unusable=frozenset(unusable),
    )


def _spacings(images: pa.Table) -> dict[tuple[float, float] | None, int]:
    """Count images by spacing (y, x), micrometres rounded to five digits, most frequent first."""
    columns = (images[f"spacing_{axis}_um"].to_pylist() for axis in "yx")
    found: Counter[tuple[float, float] | None] = Counter()
    for (y, x), count in Counter(zip(*columns, strict=True)).items():
        found[known_spacing(y, x)] += count
    return dict(sorted(found.items(), key=lambda item: (-item[1], str(item[0]))))


def _absent(store: Store, config: CohortConfig) -> Iterator[str]:
    """Yield a message for each missing source and table that cohort.toml names."""
    for name, declared in config.roots.items():
        if not open_location(declared.path).exists():
            yield f"The root {name!r} is not there: {declared.path}. Is its disk mounted?"
    for name, drawn in config.annotations.items():
        if not FolderLocation(drawn.path).exists():
            yield f"The annotations {name!r} are not there: {drawn.path}. Is their disk mounted?"
    try:
        read_subjects(store, config)
    except ConfigError as error:
        yield f"The subjects can't be joined: {error}"


def _unreadable(images: pa.Table) -> Iterator[Failure]:
    """Yield unreadable sources, including those whose images remain from an earlier ingest."""
    here = pc.and_(is_any(images["state"], [catalog.READY]), pc.is_valid(images["reason"]))
    rows = images.filter(pc.or_(is_any(images["state"], [catalog.FAILED]), here))
    for row in rows.select(["image_id", "source", "reason", "detail"]).to_pylist():
        yield Failure(
            row["image_id"], row["source"], INGEST, None, row["reason"] or "", None,
            detail=row["detail"],
        )  # fmt: skip


def _unusable(drawn: AnnotationState | None) -> Iterator[Failure]:
    for row in () if drawn is None else drawn.troubled:
        yield Failure(
            row["image_id"], row["source"], DRAWINGS, None, row["reason"] or "", None,
            row["structure"],
        )  # fmt: skip


def _declared(config: CohortConfig, binder: Binder) -> tuple[dict[str, Operation], dict[str, str]]:
    """Return the declared operations by name, and messages about the unusable ones."""
    found, unusable = {}, {}
    for name, parameters in config.operations.items():
        try:
            found[name] = binder.bind(create_operation(name, parameters, {}))
        except UsageError as error:
            text = f"cohort.toml declares {name}, which can't be run: {error}"
            if isinstance(error, NoOperation) and not isinstance(error, BrokenOperation):
                text += f" Install its package, or remove [operations.{name}] from cohort.toml."
            unusable[name] = text
    return found, unusable


def _operation(
    binder: Binder, name: str, folder: str, key: str
) -> tuple[Operation | None, str | None]:
    """Return the operation of a key, or the reason why it can't be created."""
    try:
        return binder.recorded(name, int(folder[1:]), key), None
    except BrokenOperation as error:
        return None, f"{error} Rows are counted, not images"
    except NoOperation:
        return None, f"{name} is not installed: rows are counted, not images"
    except UsageError as error:
        return None, f"{str(error).rstrip('.')}: rows are counted, not images"
