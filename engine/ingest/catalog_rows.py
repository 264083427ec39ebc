"""Build the catalog's image rows from headers, and from other rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.errors import UsageError
from engine.ingest.tasks import ShardTask
from engine.store.catalog.tables import ImageRow
from engine.store.pixels.channel_display import DISPLAY
from engine.store.pixels.layout import IncomingPlane, PlaneSlot, SeriesGeometry, StackLayout


def header_columns(arrival: IncomingPlane, plan: StackLayout) -> dict[str, Any]:
    """Return the catalog columns of a plane's header, with its fields, or those of its file."""
    return {**_columns_of(arrival), "header": {**arrival.facts, **plan.facts}}


def _columns_of(arrival: IncomingPlane) -> dict[str, Any]:
    header, lattice = arrival.header, arrival.lattice
    if header is None:
        return _file_columns(arrival)
    if not header.pseudonymised:
        raise UsageError("The identity of a header is never written down.")
    identity = header.identity
    number = "" if header.instance is None else f"-{header.instance}"
    frame = "" if header.frame is None else f"-{header.frame}"
    return {
        "fields": {
            "date": "",
            "subject": identity.patient,
            "experiment": identity.study,
            "name": f"{identity.series[:8]}{number}{frame}",
        },
        "series": identity.series,
        "instance": header.instance,
        "time_ms": header.time_ms,
        "spacing_z_um": None if lattice is None else lattice.distance_um,
        "position_mm": header.position_mm,
        "orientation": header.orientation,
        **_rescale_columns(header.rescale),
        "findings": tuple(dict.fromkeys((*header.findings, *arrival.findings))),
    }


def _file_columns(arrival: IncomingPlane) -> dict[str, Any]:
    lattice = arrival.lattice or SeriesGeometry()
    time_ms = None
    if arrival.place is not None and lattice.step_ms is not None:
        time_ms = arrival.place[0] * lattice.step_ms
    return {
        "time_ms": time_ms,
        "spacing_z_um": lattice.distance_um,
        "position_mm": arrival.position_mm,
        "orientation": lattice.orientation,
        **_rescale_columns(arrival.rescale),
        "findings": arrival.findings,
    }


def _rescale_columns(rescale: tuple[float, float] | None) -> dict[str, float | None]:
    slope, intercept = rescale or (None, None)
    return {"rescale_slope": slope, "rescale_intercept": intercept}


def keeps_its_place(slot: PlaneSlot) -> bool:
    """Return whether to store a plane although its pixels are known: a series is stored whole.

    A copy of a file adds no plane; it points to the first one like any other duplicate.
    """
    return slot.z is not None and slot.arrival.header is not None and not is_copy(slot)


def is_copy(slot: PlaneSlot) -> bool:
    """Return whether a plane belongs to a second file of an instance."""
    header = slot.arrival.header
    return header is not None and "~" in header.identity.instance


def holds_copies(task: ShardTask) -> bool:
    """Return whether all planes of a shard are copies of planes of other files."""
    return all(is_copy(slot) for slot in task.plan.slots)


def copy_location(row: ImageRow, other: ImageRow, duplicate_of: str | None) -> ImageRow:
    """Return a row that points to the pixels of another row, in a stack with its own display."""
    display = {DISPLAY: other.header[DISPLAY]} if DISPLAY in other.header else {}
    facts = {name: fact for name, fact in row.header.items() if name != DISPLAY}
    return replace(
        row,
        header={**facts, **display},
        stack=other.stack,
        shard=other.shard,
        t=other.t,
        z=other.z,
        giant=other.giant,
        duplicate_of=None if duplicate_of == row.image_id else duplicate_of,
    )


def of_original(row: ImageRow, original: ImageRow, slot: PlaneSlot) -> ImageRow:
    """Return the row of a plane that duplicates another image's pixels, with a reference to it."""
    if keeps_its_place(slot):
        of = None if original.image_id == row.image_id else original.image_id
        return replace(row, duplicate_of=of)
    return copy_location(row, original, original.image_id)
