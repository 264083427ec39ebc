"""Ledger of annotations: one row for each drawn structure of each image.

``catalog/annotations`` is a log of versions like the catalog: an edited, removed or returned
drawing is a new row with a greater ``version``; the newest version of a name is current. Points are
in pixels of the image, the centre of the first one at (0, 0). A drawing that matches no image, or
can't be read, also has a row, with an empty image_id, so that status can report it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import CorruptStore
from engine.store.arrow import empty_table, is_any, make_array
from engine.store.backend.base import Store
from engine.store.catalog.tables import FAILED, READY, RETIRED
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_bytes, digest_of
from engine.store.rows import Int32, schema_of, table_of

UNMATCHED = "unmatched"
"""State of a drawing that matches no catalogued image, or more than one."""

TWICE = "twice"
"""Reason of an unused drawing: another file draws the same structure of the same image."""

PATH = "catalog/annotations"

NAME = ("annotation", "source", "image_id", "structure")
"""Columns that identify a drawing; ``version`` numbers its versions."""

PART_ROWS = 1_000
"""Rows of a part: some 3 MB of points, which a unit reads completely."""

Rings = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRow:
    """One version of one structure of one image: the columns of the ledger.

    Attributes
    ----------
    annotation, source
        The set in cohort.toml, and the file below it.
    made_of
        Digest of all other inputs of the drawing.
    rings
        y, x, y, x, ... each. A ring without points ends a layer (see
        `engine.kernels.contours.geometry`); rows written before layers were introduced have one
        layer.
    """

    image_id: str
    version: Int32 = 1
    state: str
    reason: str | None = None
    annotation: str
    structure: str = ""
    source: str
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    made_of: str | None = None
    digest: str | None = None
    rings: tuple[tuple[float, ...], ...] = ()
    ingest: str | None = None

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Identity of the drawing, see `NAME`."""
        return self.annotation, self.source, self.image_id, self.structure


SCHEMA = schema_of(AnnotationRow)


@dataclass(frozen=True, slots=True)
class AnnotationRef:
    """Reference to the stored points of one structure of an image."""

    part: str
    annotation: str
    structure: str
    digest: str


@dataclass(frozen=True, slots=True)
class Contour:
    """One structure as drawn on an image.

    Attributes
    ----------
    annotation
        Name of the set in cohort.toml.
    structure
        Name of the outlined structure, e.g. "inner".
    rings
        Arrays (n, 2) of y, x, pixels of the whole image. If polygons of the structure overlap, a
        ring without points ends a layer, and the structure is the union of its layers; see
        `engine.kernels.contours.geometry`.
    """

    annotation: str
    structure: str
    rings: Rings


def annotations_ledger(store: Store) -> Ledger:
    """Return the ledger of annotations."""
    return Ledger(store, PATH, SCHEMA)


def has_annotations(store: Store) -> bool:
    """Return True if any annotation was ever ingested."""
    return store.size(f"{PATH}/_delta_log/{0:020d}.json") is not None


def flat_rings(rings: Iterable[NDArray[np.float64]]) -> tuple[tuple[float, ...], ...]:
    """Convert rings to the ledger's format."""
    return tuple(tuple(np.asarray(ring, np.float64).ravel().tolist()) for ring in rings)


def digest_rings(rings: Sequence[Sequence[float] | NDArray[np.float64]]) -> str:
    """Return the digest of a contour's points in the ledger's format."""
    arrays = [np.asarray(ring, "<f8") for ring in rings]
    return digest_bytes(b"".join(len(a).to_bytes(8, "little") + a.tobytes() for a in arrays))


def annotation_table(rows: Sequence[AnnotationRow]) -> pa.Table:
    """Convert rows to a table of `SCHEMA`."""
    return table_of(rows, AnnotationRow)


def current_rows(versions: pa.Table) -> pa.Table:
    """Return the newest version of each name, by image_id, annotation, structure and source."""
    if versions.num_rows == 0:
        return versions
    keys = ("image_id", "annotation", "structure", "source")
    order = [(name, "ascending") for name in (*keys, "version")]
    ranked = versions.take(pc.sort_indices(versions, sort_keys=order)).combine_chunks()
    last = np.ones(ranked.num_rows, bool)
    same = np.ones(ranked.num_rows - 1, bool)
    for name in keys:
        codes = pc.dictionary_encode(ranked[name]).combine_chunks().indices.to_numpy()
        same &= codes[1:] == codes[:-1]
    last[:-1] = ~same
    return ranked.filter(pa.array(last))


@dataclass(frozen=True)
class Annotations:
    """Current drawings by image.

    Attributes
    ----------
    version
        Version of the ledger; -1 before the first ingest of annotations.
    refs
        References to the points of each image's structures, by image_id, in order of their names.
    refused
        Structures of each image that have an unusable drawing, by image_id.
    """

    version: int
    refs: Mapping[str, tuple[AnnotationRef, ...]]
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each image's drawings, by image_id."""
        return {image_id: digest_refs(refs) for image_id, refs in self.refs.items()}

    def joined(self, images: pa.Table) -> pa.Table:
        """Add a column ``annotation`` to catalog rows: the digest, null without drawings."""
        digests = [self.digests.get(image_id) for image_id in images["image_id"].to_pylist()]
        return images.append_column("annotation", make_array(digests, pa.string()))

    def of(self, image_ids: Iterable[str]) -> dict[str, tuple[AnnotationRef, ...]]:
        """Return the references of the given images; images without any are left out."""
        return {image_id: self.refs[image_id] for image_id in image_ids if image_id in self.refs}


def digest_refs(refs: Sequence[AnnotationRef]) -> str:
    """Return the digest of one image's drawings."""
    return digest_of([[ref.annotation, ref.structure, ref.digest] for ref in refs])


def read_annotations(store: Store) -> Annotations:
    """Return the current drawings, without their points.

    If two files draw one structure of an image, the first by name is used; `annotation_state`
    reports the other.

    Raises
    ------
    CorruptStore, MissingObject
    """
    if not has_annotations(store):
        return Annotations(-1, {})
    ledger = annotations_ledger(store)
    snapshot = ledger.snapshot()
    rows = read_light(ledger, snapshot)
    refs: dict[str, dict[tuple[str, str], AnnotationRef]] = {}
    for row in rows.filter(is_any(rows["state"], [READY])).to_pylist():
        ref = AnnotationRef(row["part"], row["annotation"], row["structure"], row["digest"])
        refs.setdefault(row["image_id"], {}).setdefault((ref.annotation, ref.structure), ref)
    refused: dict[str, frozenset[str]] = {}
    for row in rows.filter(is_any(rows["state"], [FAILED])).to_pylist():
        if row["image_id"]:
            known = refused.get(row["image_id"], frozenset())
            refused[row["image_id"]] = known | {row["structure"]}
    found = {image_id: tuple(by.values()) for image_id, by in refs.items()}
    return Annotations(snapshot.version, found, refused)


def read_light(ledger: Ledger, snapshot: Snapshot) -> pa.Table:
    """Return the newest version of each name without its points, and the part that holds it."""
    names = [name for name in SCHEMA.names if name != "rings"]
    tables = [empty_table(pa.schema([SCHEMA.field(n) for n in names]))]
    tables[0] = tables[0].append_column("part", make_array([], pa.string()))
    for part in snapshot.parts:
        rows = ledger.read_part(part, names).select(names)
        tables.append(rows.append_column("part", make_array([part.path] * len(rows), pa.string())))
    return current_rows(pa.concat_tables(tables))


def read_contours(
    store: Store, refs: Mapping[str, tuple[AnnotationRef, ...]]
) -> dict[str, tuple[Contour, ...]]:
    """Read the points of drawings of some images, and check them against their digests.

    Raises
    ------
    MissingObject, CorruptStore
    """
    ledger = annotations_ledger(store)
    wanted: dict[str, dict[tuple[str, str, str, str], None]] = {}
    for image_id, of_image in refs.items():
        for ref in of_image:
            key = (image_id, ref.annotation, ref.structure, ref.digest)
            wanted.setdefault(ref.part, {})[key] = None
    found: dict[tuple[str, str, str, str], Rings] = {}
    columns = ["image_id", "annotation", "structure", "digest", "rings"]
    for path, keys in wanted.items():
        rows = ledger.read_part(Part(path, 0, 0, None, "", ""), columns)
        ids = make_array(sorted({key[0] for key in keys}), pa.string())
        mine = rows.filter(pc.is_in(rows["image_id"], value_set=ids)).combine_chunks()
        names = zip(*(mine[name].to_pylist() for name in columns[:-1]), strict=True)
        for key, rings in zip(names, _rings_of(mine["rings"]), strict=True):
            if key in keys and rings is not None:
                if digest_rings(rings) != key[-1]:
                    raise CorruptStore(f"{PATH}/{path}", "its points differ from their digest")
                found[key] = tuple(ring.reshape(-1, 2) for ring in rings)
    return {
        image_id: tuple(
            Contour(ref.annotation, ref.structure,
                    _there(found, (image_id, ref.annotation, ref.structure, ref.digest), ref.part))
            for ref in of_image
        )
        for image_id, of_image in refs.items()
    }  # fmt: skip


def _rings_of(column: pa.ChunkedArray) -> Iterator[list[NDArray[np.float64]] | None]:
    """Yield the flat rings of each row, None for null; convert no numbers to Python objects."""
    for lists in column.chunks:
        rings = lists.values
        points = rings.values.to_numpy(zero_copy_only=False)
        ends, bounds = lists.offsets.to_numpy(), rings.offsets.to_numpy()
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        for n, valid in enumerate(there):
            own = range(ends[n], ends[n + 1])
            yield [points[bounds[i] : bounds[i + 1]].copy() for i in own] if valid else None


def _there(
    found: Mapping[tuple[str, str, str, str], Rings], key: tuple[str, str, str, str], part: str
) -> Rings:
    if key not in found:
        raise CorruptStore(f"{PATH}/{part}", "lacks a drawing that it must hold")
    return found[key]


@dataclass(frozen=True, slots=True)
class AnnotationState:
    """Number of drawings by state, and the names of unused ones."""

    states: Mapping[str, int]
    troubled: tuple[Mapping[str, Any], ...]

    def since(self, before: AnnotationState) -> list[Mapping[str, Any]]:
        """Return the unused drawings that were used, or unused for another reason, before."""
        known = Counter(tuple(row.values()) for row in before.troubled)
        newly = []
        for row in self.troubled:
            known[tuple(row.values())] -= 1
            if known[tuple(row.values())] < 0:
                newly.append(row)
        return newly


def annotation_state(store: Store) -> AnnotationState | None:
    """Return the counts of drawings, or None if none were ever ingested."""
    if not has_annotations(store):
        return None
    ledger = annotations_ledger(store)
    return state_of(read_light(ledger, ledger.snapshot()))


def state_of(rows: pa.Table) -> AnnotationState:
    """Return the counts of drawings by state, and the unused ones.

    Parameters
    ----------
    rows
        Rows from `read_light`.
    """
    states: Counter[str] = Counter()
    troubled = []
    seen: set[tuple[str, str, str]] = set()
    for row in rows.filter(pc.invert(is_any(rows["state"], [RETIRED]))).to_pylist():
        state, reason = row["state"], row["reason"]
        name = (row["image_id"], row["annotation"], row["structure"])
        if state == READY and name in seen:
            state, reason = FAILED, TWICE
        elif state == READY:
            seen.add(name)
        states[state] += 1
        if state in (UNMATCHED, FAILED):
            shown = {n: row[n] for n in ("annotation", "source", "structure", "image_id")}
            troubled.append({**shown, "state": state, "reason": reason})
    return AnnotationState(dict(sorted(states.items())), tuple(troubled))
