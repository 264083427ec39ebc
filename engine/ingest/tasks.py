"""Records that travel between the driver of an ingest and its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.errors import AlignmentError
from engine.record import Record
from engine.store.catalog.tables import ShardRow
from engine.store.pixels.layout import IncomingPlane, PlaneSlot, StackLayout


@dataclass(frozen=True, slots=True)
class FileStamp(Record):
    """File metadata that detects changes without opening the file."""

    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class SourceFile(Record):
    """A source: its name in the catalog, its location, and its metadata at listing.

    ``path`` is relative to the folder ``base``, escaped by `engine.sources.locations.folder`.
    Neither is shown, since Dask writes the arguments of a failed task to the worker's log.
    ``source`` consists of pseudonyms if the root is ``confidential``; ``slide_spacing_um`` is the
    pixel size at which a whole slide is read.
    """

    source: str
    base: str = field(repr=False)
    path: str = field(repr=False)
    stat: FileStamp
    confidential: bool = False
    slide_spacing_um: float | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult(Record):
    """Result of probing a source: its planes, or a reason code, or neither if it is ignored.

    ``withheld`` marks a confidential file in a root that is not: nothing of it may be recorded.
    ``claimed`` marks a file of a known format that holds no image.
    """

    file: SourceFile
    arrivals: tuple[IncomingPlane, ...] = ()
    reason: str | None = None
    detail: str | None = None
    withheld: bool = False
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class PlaneResult(Record):
    """Result of reading a plane: its digest and noise, or a reason code.

    ``reason`` None and ``content`` None together mean that the file changed while it was read; the
    next ingest reads it again.
    """

    arrival: IncomingPlane
    content: str | None = None
    noise_sd: tuple[float, ...] = ()
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The planes of one shard, or of a giant image, and their files.

    ``plan`` holds the slots of this shard only; ``files`` are by source.
    """

    plan: StackLayout = field(repr=False)
    shard: int
    files: Mapping[str, SourceFile] = field(repr=False)
    max_decoded_bytes: int
    decode_only: bool = False
    """If True, only decode the planes, to test whether they crash the worker."""

    def __post_init__(self) -> None:
        """Check that the task touches no other shard."""
        for slot in self.plan.slots:
            if slot.shard != self.shard:
                raise AlignmentError((slot.t, slot.z), f"shard {self.shard} of {self.plan.name}")

    @property
    def parts(self) -> tuple[PlaneSlot, ...]:
        """Planes, each of which may crash a worker."""
        return self.plan.slots

    def only(self, parts: Sequence[PlaneSlot]) -> ShardTask:
        """Return the task with some of its planes."""
        files = {slot.arrival.source: self.files[slot.arrival.source] for slot in parts}
        return replace(self, plan=replace(self.plan, slots=tuple(parts)), files=files)

    def dry_run(self) -> ShardTask:
        """Return a task that only decodes."""
        return replace(self, decode_only=True)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """Result of a shard task."""

    task: tuple[str, int]
    files: tuple[ShardRow, ...]
    planes: tuple[PlaneResult, ...]


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Files whose headers are read together.

    Parameters
    ----------
    files
        Sources of one root.
    max_decoded_bytes
        A plane that decodes to more is ``too_large``, unless it can be streamed.
    spacing_um
        Pixel spacing (y, x) for files without one.
    channels
        Names of the channels that the root states.
    """

    files: tuple[SourceFile, ...]
    max_decoded_bytes: int
    spacing_um: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[SourceFile, ...]:
        """Files, each of which may crash a worker."""
        return self.files

    def only(self, parts: Sequence[SourceFile]) -> ProbeTask:
        """Return the task with some of its files."""
        return replace(self, files=tuple(parts))

    def dry_run(self) -> ProbeTask:
        """Return the task itself: it publishes nothing."""
        return self
