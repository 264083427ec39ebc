"""Images that reference pixels without a row in the catalog of shards.

An ingest commits shards first and images second, so it makes none. Earlier versions committed the
images even if the commit of shards had failed. Such images are unreadable until an ingest takes
them again, and until then no file of their stacks may be removed.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from engine.store.arrow import fill_null, is_any, make_array, make_scalar
from engine.store.backend.base import Store
from engine.store.catalog.tables import ORPHANED, READY, read_images, shards_ledger
from engine.store.pixels.layout import count_blocks

PLACE = ("state", "stack", "shard", "z", "giant", "height", "width")
"""Columns of images that `unnamed_images` reads, beside ``image_id``."""


def read_shard_places(store: Store) -> pa.Table:
    """Return stack, level and shard of all files below ``pixels/``; call it after `read_images`."""
    ledger = shards_ledger(store)
    return ledger.read(ledger.snapshot().parts, ["stack", "level", "shard"])


def unnamed_images(images: pa.Table, shards: pa.Table) -> pa.Table:
    """Return the images (image_id, stack) that have pixels but no shard in the catalog.

    A series has a stack of its own: if one of its planes is missing, all its planes are returned.

    Parameters
    ----------
    images
        Current rows with `PLACE`, read before the shards: an ingest commits those first.
    shards
        From `read_shard_places`.
    """
    here = is_any(images["state"], [READY, ORPHANED])
    images = images.select(["image_id", *PLACE[1:]]).filter(here)
    named = shards.filter(is_any(shards["level"], [0]))
    places = pc.unique(_place(named["stack"], named["shard"]))
    metadata = make_array([-1] * images.num_rows, pa.int32())
    found = pc.and_(
        pc.is_in(_place(images["stack"], images["shard"]), value_set=places),
        pc.is_in(_place(images["stack"], metadata), value_set=places),
    )
    found = pc.and_(found, pc.invert(_cut(images, named)))
    lacking = images.filter(pc.invert(found))
    if not lacking.num_rows:
        return lacking.select(["image_id", "stack"])
    torn = pc.and_(
        pc.is_valid(images["z"]), pc.is_in(images["stack"], value_set=pc.unique(lacking["stack"]))
    )
    return images.filter(pc.or_(pc.invert(found), torn)).select(["image_id", "stack"])


def _cut(images: pa.Table, named: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return a mask of the giants with blocks missing in the catalog."""
    giants = images.filter(images["giant"]).select(["stack", "height", "width"]).to_pylist()
    here = named.filter(is_any(named["stack"], [g["stack"] for g in giants]))
    blocks = {(row["stack"], row["shard"]) for row in here.to_pylist() if row["shard"] >= 0}
    counts = Counter(stack for stack, _ in blocks)
    cut = [g["stack"] for g in giants if counts[g["stack"]] < count_blocks(g["height"], g["width"])]
    return pc.and_(images["giant"], is_any(images["stack"], cut))


def unnamed_stacks(store: Store) -> frozenset[str]:
    """Return the stacks that hold such images: none of their files may be removed.

    Raises
    ------
    CorruptStore, MissingObject
    """
    images = read_images(store, PLACE)[1]
    stacks = unnamed_images(images, read_shard_places(store))["stack"]
    return frozenset(stack for stack in stacks.to_pylist() if stack is not None)


def _place(stacks: pa.ChunkedArray, shards: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    filled = fill_null(pc.cast(shards, pa.string()), "")
    return pc.binary_join_element_wise(fill_null(stacks, ""), filled, make_scalar("/", pa.string()))
