"""Plan of new stacks: assign a stack, shard and position to each new plane."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.errors import AlignmentError
from engine.header import SLICE_DISTANCE, SLICE_THICKNESS, Header
from engine.record import Record
from engine.store.catalog.derived import CHANNEL_NAMES, TIME_STEP
from engine.store.catalog.tables import ORIENTATION
from engine.store.config import Limits
from engine.store.pixels.channel_display import DISPLAY, ChannelDisplay, display_text

OWN_STACK_IMAGES = 8
"""Images of one shape in one ingest from which on the shape gets a stack of its own; rarer shapes
share stacks."""

LEAST_SHARDS = 8
"""Minimum number of shards of a small stack, so that a few images still use all cores."""

GIANT_CHUNK_PX = 512
GIANT_SHARD_PX = 2048
"""Sides of the chunks and shards of a giant image, pixels."""

SMALLEST_LEVEL_PX = 1024
"""A pyramid ends at the first level whose longer side is at most this, pixels."""


@dataclass(frozen=True, slots=True)
class SeriesGeometry:
    """Geometry of a series' planes in time and in the patient.

    ``step_ms`` is the time between phases, ``distance_um`` that between slices; ``origin_um`` the
    first pixel's centre (z, y, x) along the image's own axes. ``position_mm`` and ``orientation``
    are those of the first slice in DICOM's terms. ``affine`` maps (x, y, z, 1), in voxels, to the
    patient, mm, if the file states it; slices may then follow against the normal.
    """

    step_ms: float | None = None
    distance_um: float | None = None
    origin_um: tuple[float, float, float] | None = None
    position_mm: tuple[float, float, float] | None = None
    orientation: tuple[float, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None


_MS_PER_S = 1000.0

DOWNSAMPLE = "downsample"
"""Key in a catalogued ``header``: pixels (y, x) of a slide's full resolution per stored pixel."""


@dataclass(frozen=True, slots=True)
class IncomingPlane(Record):
    """Plane found in a source, not yet assigned to a stack.

    ``shape`` is (c, y, x); ``place`` is (t, z) in a series, or None. A series without ``header``
    belongs to one file, by number; one with a ``header`` spans several files, by name.
    ``downsample`` is the number of the file's pixels (y, x) per pixel of the plane, for slides read
    at a given resolution. ``channel_names`` come from the file or its root.
    ``channel_colours``, ``orientation``, ``findings``, ``rescale`` and ``position_mm`` come from
    files without a header, see `engine.sources.Plane`.
    """

    source: str
    fragment: str
    shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float] | None
    place: tuple[int, int] | None = None
    series: int | str = 0
    header: Header | None = field(default=None, repr=False)
    lattice: SeriesGeometry | None = None
    downsample: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    orientation: int = 1
    findings: tuple[str, ...] = ()
    rescale: tuple[float, float] | None = None
    position_mm: tuple[float, float, float] | None = None
    channel_colours: tuple[str, ...] = ()

    @property
    def image_id(self) -> str:
        """Image id: the pseudonym of its instance, or that of its source."""
        return (self.header.identity.instance if self.header else self.source) + self.fragment

    @property
    def nbytes(self) -> int:
        """Decoded size, bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def facts(self) -> dict[str, str]:
        """Values for the catalog's column ``header``."""
        facts = {} if self.header is None else dict(self.header.terms)
        if self.header is not None:
            facts["frame_of_reference"] = self.header.identity.frame_of_reference
            said = {
                SLICE_DISTANCE: self.header.distance_mm,
                SLICE_THICKNESS: self.header.thickness_mm,
            }
            facts |= {name: f"{value:g}" for name, value in said.items() if value}
        if self.downsample is not None:
            facts[DOWNSAMPLE] = " ".join(map(repr, self.downsample))
        if self.channel_names:
            facts[CHANNEL_NAMES] = json.dumps(self.channel_names, ensure_ascii=False)
        if self.lattice is not None and self.lattice.step_ms and self.header is None:
            facts[TIME_STEP] = repr(self.lattice.step_ms / _MS_PER_S)
        if self.orientation != 1:
            facts[ORIENTATION] = str(self.orientation)
        return facts


@dataclass(frozen=True, slots=True)
class PlaneSlot(Record):
    """Position of one plane: shard (C order over the shard grid) and (t, z)."""

    arrival: IncomingPlane
    shard: int
    t: int
    z: int | None = None


@dataclass(frozen=True, slots=True)
class StackLayout:
    """Plan of one OME-Zarr image, axes t,c,y,x (stack, giant) or t,c,z,y,x (series).

    ``display`` is that of its channels, if they have names.

    Raises
    ------
    AlignmentError
        If chunks do not fill a shard, or a slot names another shard than the one that holds its
        plane: then two tasks would write one shard.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str
    spacing_um: tuple[float, float] | None
    slots: tuple[PlaneSlot, ...]
    lattice: SeriesGeometry | None = None
    display: tuple[ChannelDisplay, ...] = ()

    def __post_init__(self) -> None:
        """Check that tasks are aligned with shards."""
        if any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise AlignmentError(self.chunk, f"stack {self.name}, whose shards are {self.shard}")
        grid = self.grid
        for slot in self.slots:
            index = slot.t // self.shard[0] * math.prod(grid[1:])
            if slot.z is not None:
                index += slot.z // self.shard[2]
            if slot.shard != index:
                raise AlignmentError((slot.t, slot.z), f"shard {slot.shard} of stack {self.name}")

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, if all planes agree."""
        named = {slot.arrival.channel_names for slot in self.slots}
        return named.pop() if len(named) == 1 else ()

    @property
    def facts(self) -> dict[str, str]:
        """Values for the catalog's column ``header`` of each of its images."""
        return {DISPLAY: display_text(self.display)} if self.display else {}

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))


def bucket_side(side: int) -> int:
    """Return the side under which a rare shape is grouped: powers of two and their halfway marks.

    Examples
    --------
    >>> [bucket_side(n) for n in (1, 64, 65, 97, 500, 1000)]
    [64, 64, 96, 128, 512, 1024]
    """
    size = 64
    while True:
        if side <= size:
            return size
        if side <= size * 3 // 2:
            return size * 3 // 2
        size *= 2


def plan_stack_layouts(
    arrivals: Sequence[IncomingPlane], ingest: str, limits: Limits
) -> tuple[StackLayout, ...]:
    """Assign each new plane a position of its own; group equal or similar planes into stacks.

    Parameters
    ----------
    arrivals
        New planes, in their order in the stack.
    ingest
        Unique identifier of the ingest; names of stacks start with it.
    limits
        Sizes of shards, and the size from which on an image is giant.

    Returns
    -------
    Stacks in a fixed order. A shape of at least `OWN_STACK_IMAGES` planes gets its own stack; rarer
    shapes of one bucket (see `bucket_side`) are padded to the largest among them.
    """
    series: dict[tuple[str, int | str], list[IncomingPlane]] = defaultdict(list)
    giants: list[IncomingPlane] = []
    flat: list[IncomingPlane] = []
    for arrival in arrivals:
        if arrival.place is not None:
            of_files = arrival.header is not None
            series["" if of_files else arrival.source, arrival.series].append(arrival)
        elif arrival.nbytes > limits.giant_bytes:
            giants.append(arrival)
        else:
            flat.append(arrival)

    groups: dict[tuple[object, ...], list[IncomingPlane]] = defaultdict(list)
    for arrival in flat:
        alike = arrival.dtype, arrival.spacing_um, arrival.channel_names
        groups[(*alike, arrival.shape)].append(arrival)
    shared: dict[tuple[object, ...], list[IncomingPlane]] = defaultdict(list)
    for kind, members in groups.items():
        if len(members) >= OWN_STACK_IMAGES:
            shared[kind] = members
        else:
            channels, height, width = members[0].shape
            bucket = ("bucket", channels, bucket_side(height), bucket_side(width))
            shared[(*kind[:-1], bucket)].extend(members)

    plans: list[StackLayout] = []
    for members in shared.values():
        plans.append(plan_stack(f"{ingest}-{len(plans):03d}", members, limits))
    for members in series.values():
        by_kind: dict[tuple[object, ...], list[IncomingPlane]] = defaultdict(list)
        times: Counter[tuple[object, ...]] = Counter()
        for arrival in members:
            # Spacings of files may differ in their last digit, see `assign_series_positions`.
            spacing = None if arrival.header is not None else arrival.spacing_um
            kind = (arrival.shape, arrival.dtype, spacing)
            # Metadata may give two planes the same (t, z); the second one must not overwrite the
            # first.
            times[kind, arrival.place] += 1
            by_kind[(*kind, times[kind, arrival.place])].append(arrival)
        for equal in by_kind.values():
            plans.append(plan_series(f"{ingest}-{len(plans):03d}", equal, limits))
    for arrival in giants:
        plans.append(plan_giant(f"{ingest}-{len(plans):03d}", arrival))
    return tuple(plans)


def plan_stack(name: str, members: Sequence[IncomingPlane], limits: Limits) -> StackLayout:
    """Return the layout of images of one kind; smaller ones are padded."""
    channels = members[0].shape[0]
    height = max(arrival.shape[1] for arrival in members)
    width = max(arrival.shape[2] for arrival in members)
    nbytes = channels * height * width * np.dtype(members[0].dtype).itemsize
    filled = max(1, min(limits.shard_images, limits.shard_bytes // max(nbytes, 1)))
    depth = max(1, min(filled, -(-len(members) // LEAST_SHARDS)))
    return StackLayout(
        name,
        "stack",
        (len(members), channels, height, width),
        (1, channels, height, width),
        (depth, channels, height, width),
        members[0].dtype,
        members[0].spacing_um,
        tuple(PlaneSlot(arrival, t // depth, t) for t, arrival in enumerate(members)),
    )


def plan_series(name: str, members: Sequence[IncomingPlane], limits: Limits) -> StackLayout:
    """Return the layout of the planes of a series."""
    places = [arrival.place or (0, 0) for arrival in members]
    steps, planes = max(t for t, _ in places) + 1, max(z for _, z in places) + 1
    channels, height, width = members[0].shape
    filled = max(1, limits.shard_bytes // max(members[0].nbytes, 1))
    depth = min(planes, filled)
    frames = min(steps, max(1, filled // planes))
    across = -(-planes // depth)
    return StackLayout(
        name,
        "series",
        (steps, channels, planes, height, width),
        (1, channels, 1, height, width),
        (frames, channels, depth, height, width),
        members[0].dtype,
        members[0].spacing_um,
        tuple(
            PlaneSlot(arrival, (t // frames) * across + z // depth, t, z)
            for arrival, (t, z) in zip(members, places, strict=True)
        ),
        members[0].lattice,
    )


def plan_giant(name: str, arrival: IncomingPlane) -> StackLayout:
    """Return the layout of a giant image."""
    channels = arrival.shape[0]
    return StackLayout(
        name,
        "giant",
        (1, *arrival.shape),
        (1, channels, GIANT_CHUNK_PX, GIANT_CHUNK_PX),
        (1, channels, GIANT_SHARD_PX, GIANT_SHARD_PX),
        arrival.dtype,
        arrival.spacing_um,
        (PlaneSlot(arrival, 0, 0),),
    )


def count_blocks(height: int, width: int) -> int:
    """Return the number of shards, which are the blocks of work, of a giant image of this size.

    Examples
    --------
    >>> count_blocks(2048, 2049)
    2
    """
    return -(-height // GIANT_SHARD_PX) * -(-width // GIANT_SHARD_PX)


def level_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a pyramid's levels: each halves y and x, rounded up.

    Examples
    --------
    >>> level_shapes((1, 3, 4000, 3001))
    ((1, 3, 4000, 3001), (1, 3, 2000, 1501), (1, 3, 1000, 751))
    """
    levels = [shape]
    while max(levels[-1][-2:]) > SMALLEST_LEVEL_PX:
        *front, height, width = levels[-1]
        levels.append((*front, -(-height // 2), -(-width // 2)))
    return tuple(levels)
