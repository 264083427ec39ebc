"""Plan of missing and outdated pictures, and the units that render them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.operations.base import Operation
from engine.qc.outliers import SAMPLE, sample
from engine.qc.render import DRAWING
from engine.qc.statistics import COUNT, QcStatistics
from engine.qc.worker import MONTAGE_CROPS, MontageUnit, OverlayUnit, PictureRequest, Unit
from engine.runs.input_digests import image_inputs
from engine.runs.plan import PlanItem
from engine.runs.worker import ledger_of
from engine.store.backend.base import Store
from engine.store.catalog.tables import ORPHANED, READY
from engine.store.delta.ledger import Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_of
from engine.store.pictures import MONTAGE, OVERLAY, PictureIndex, is_there, slug
from engine.store.results import DONE

if TYPE_CHECKING:
    import pandas as pd

UNIT_PICTURES = 32
"""Maximum pictures per unit: at some 10 ms each, a third of a second."""

UNITS_A_SLOT = 4
"""Minimum units per slot."""


@dataclass(frozen=True)
class QcPlan:
    """Pictures to render and pictures to keep.

    Attributes
    ----------
    kept
        Existing up-to-date pictures, whether required now or not.
    fresh
        Number of required pictures that are up to date.
    overlays, montages
        Pictures to render: overlays in storage order; montages by experiment.
    """

    kept: PictureIndex
    fresh: int
    overlays: tuple[PictureRequest, ...]
    montages: tuple[MontageUnit, ...]

    @property
    def to_make(self) -> int:
        """Number of pictures to render."""
        return len(self.overlays) + len(self.montages)

    def units(self, slots: int) -> Iterator[Unit]:
        """Yield units, small enough that every slot gets some."""
        size = max(1, min(UNIT_PICTURES, -(-len(self.overlays) // (UNITS_A_SLOT * slots))))
        for number, start in enumerate(range(0, len(self.overlays), size)):
            yield OverlayUnit(number, self.overlays[start : start + size])
        yield from self.montages


@dataclass(frozen=True)
class _Images:
    """Some images with their catalog rows and table rows: storage position and dependencies."""

    operation: Operation
    facts: QcStatistics
    rows: pd.DataFrame  # catalog rows, in the order of ``numbers``
    numbers: NDArray[np.int64]  # row numbers in the tables
    inputs: Sequence[str]

    @property
    def place(self) -> dict[int, int]:
        """Position in ``rows`` by number in the tables."""
        return {int(number): n for n, number in enumerate(self.numbers)}

    def identity(self, n: int) -> list[Any]:
        """Return the values that a picture depends on, in addition to the operation's key."""
        row, number = self.rows.iloc[n], self.numbers[n]
        count = self.facts.measures[COUNT][number]
        status = str(self.facts.status[number])
        found = int(count) if np.isfinite(count) else -1
        return [row["image_id"], self.inputs[n], row["content"], status, found]


def plan_pictures(
    store: Store,
    operation: Operation,
    facts: QcStatistics,
    chosen: NDArray[np.int64],
    images: pa.Table,
    results: Snapshot,
    known: PictureIndex,
    files: Mapping[str, int],
) -> QcPlan:
    """Decide which pictures to render.

    Parameters
    ----------
    chosen
        Numbers of the images that get an overlay.
    images
        The catalog's current rows.
    results
        Snapshot of the operation's ledger.
    known
        The index of pictures.
    files
        The existing picture files, with their sizes.
    """
    ids = facts.columns["image_id"]
    noted = pa.array([name for kind, name in known if kind == OVERLAY], pa.string())
    # Also check existing pictures that are not required now, to keep them if they are up to date.
    before = pc.index_in(noted, value_set=ids.combine_chunks()).drop_null().to_numpy()
    shows = (facts.status == DONE) & (np.nan_to_num(facts.measures[COUNT]) > 0)
    members = sample(facts, SAMPLE, among=shows)
    numbers = np.unique(np.concatenate([chosen, before.astype(np.int64), members]))
    found = _look_up(operation, facts, images, numbers)
    made_of = [_digest(operation, [OVERLAY, found.identity(n)]) for n in range(len(found.numbers))]
    wanted = {int(n) for n in chosen}
    kept: PictureIndex = {}
    stale: list[int] = []
    fresh = 0
    for n, number in enumerate(found.numbers.tolist()):
        picture = known.get((OVERLAY, str(found.rows.iloc[n]["image_id"])))
        if picture is not None and picture.made_of == made_of[n] and is_there(picture, files):
            kept[OVERLAY, picture.name] = picture
            fresh += number in wanted
        elif number in wanted:
            stale.append(n)
    montages: list[tuple[int, str, list[int]]] = []
    place = found.place
    by_experiment: dict[int, list[int]] = {}
    for member in members.tolist():
        if member in place:
            by_experiment.setdefault(int(facts.experiment[member]), []).append(place[member])
    for experiment, of_it in sorted(by_experiment.items()):
        digest = _digest(operation, [MONTAGE, MONTAGE_CROPS, *map(found.identity, of_it)])
        picture = known.get((MONTAGE, experiment_name(facts, experiment)))
        if picture is not None and picture.made_of == digest and is_there(picture, files):
            kept[MONTAGE, picture.name] = picture
            fresh += 1
        else:
            montages.append((experiment, digest, of_it))
    needed = sorted({*stale, *(n for _, _, of_it in montages for n in of_it)})
    parts = _locate(store, operation, results, found, needed)
    ready = {n: _wanted(found, n, made_of[n], parts) for n in needed}
    overlays = sorted((ready[n] for n in stale), key=lambda one: _order(one))
    return QcPlan(
        kept,
        fresh,
        tuple(overlays),
        tuple(
            MontageUnit(
                -1 - number,
                experiment_name(facts, number),
                digest,
                experiment_path(facts, number),
                tuple(sorted((ready[n] for n in of_it), key=lambda one: _order(one))),
            )
            for number, digest, of_it in montages
        ),
    )


def experiment_name(facts: QcStatistics, number: int) -> str:
    """Return an experiment's name in the index: its date, subject and name, on a line each.

    Fields of a layout contain no line breaks, since paths are escaped.
    """
    return "\n".join(facts.experiments[number])


def experiment_path(facts: QcStatistics, number: int) -> str:
    """Return the prefix of an experiment's file names."""
    return slug("-".join(part for part in facts.experiments[number] if part))


def _digest(operation: Operation, values: list[Any]) -> str:
    return digest_of([DRAWING, operation.key, *values])


def _order(one: PictureRequest) -> tuple[str, int, int, int]:
    return one.item.stack, one.item.shard, one.item.t, one.item.z or 0


def _look_up(
    operation: Operation, facts: QcStatistics, images: pa.Table, numbers: NDArray[np.int64]
) -> _Images:
    """Return the catalog's rows of some images; images without pixels are left out."""
    ids = facts.columns["image_id"].combine_chunks().take(pa.array(numbers))
    there = pc.index_in(ids, value_set=images["image_id"].combine_chunks())
    have = np.flatnonzero(there.is_valid().to_numpy(zero_copy_only=False))
    rows = images.take(there.drop_null())
    pixels = pc.is_in(rows["state"], value_set=pa.array([READY, ORPHANED]))
    rows, have = rows.filter(pixels), have[pixels.to_numpy(zero_copy_only=False)]
    columns = [
        "image_id", "content", "channels", "height", "width", "dtype", "stack", "shard", "t", "z",
        "giant", "source", "channel_names",
    ]  # fmt: skip
    frame = rows.select(columns).to_pandas()
    return _Images(operation, facts, frame, numbers[have], image_inputs(operation, rows))


def _locate(
    store: Store, operation: Operation, results: Snapshot, found: _Images, needed: Sequence[int]
) -> dict[str, list[Part]]:
    """Return the parts that hold the current rows of some images, by image_id."""
    if not needed:
        return {}
    ids = found.rows["image_id"].iloc[list(needed)]
    inputs = dict(zip(ids, (found.inputs[n] for n in needed), strict=True))
    low, high = min(inputs), max(inputs)
    names = pa.array(list(inputs), pa.string())
    ledger = ledger_of(store, operation)
    places: dict[str, list[Part]] = {}
    for part in results.of_key(operation.key):
        if part.low > high or part.high < low:
            continue
        rows = ledger.read_part(part, ["image_id", "inputs"])
        rows = rows.filter(pc.is_in(rows["image_id"], value_set=names))
        for image_id, of in zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True):
            held = places.setdefault(image_id, [])
            if inputs[image_id] == of and part not in held:
                held.append(part)
    return places


def _wanted(
    found: _Images, n: int, made_of: str, parts: Mapping[str, Sequence[Part]]
) -> PictureRequest:
    import pandas as pd

    row, number = found.rows.iloc[n], int(found.numbers[n])
    image_id = str(row["image_id"])
    item = PlanItem(
        image_ids=(image_id,),
        inputs=found.inputs[n],
        stack=row["stack"],
        shard=int(row["shard"]),
        t=int(row["t"]),
        z=None if pd.isna(row["z"]) else int(row["z"]),
        shape=(int(row["channels"]), int(row["height"]), int(row["width"])),
        dtype=row["dtype"],
        noise_sd=(),
        spacing_um=None,
        source=row["source"],
        channel_names=() if row["channel_names"] is None else tuple(row["channel_names"]),
    )
    facts = found.facts
    name = facts.columns["name"][number].as_py() or image_id.rsplit("/", 1)[-1]
    path = f"{experiment_path(facts, int(facts.experiment[number]))}/{slug(name)}"
    done = str(facts.status[number]) == DONE
    held = tuple(parts.get(image_id, ()))
    return PictureRequest(item, bool(row["giant"]), done, made_of, path, held)
