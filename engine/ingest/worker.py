"""Worker side of ingest: turn source files into shards. Runs without a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from itertools import compress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import Conflict, SourceUnreadable
from engine.header import MISSING_PLANES
from engine.ingest.open_sources import OpenSources
from engine.ingest.series.file_geometry import FileGeometry, geometry_of
from engine.ingest.tasks import (
    FileStamp,
    PlaneResult,
    ProbeResult,
    ProbeTask,
    ShardResult,
    ShardTask,
    SourceFile,
)
from engine.kernels.colour import with_luminance
from engine.kernels.noise import estimate_noise_windows, merge_noise
from engine.sources import OpenSource, Plane, open_source
from engine.sources.locations.base import open_location
from engine.sources.locations.folder import escape_path
from engine.sources.opening import detect_in
from engine.sources.registry import Detected, detect_format
from engine.store.backend.base import Store
from engine.store.digests import digest_plane
from engine.store.pixels.layout import IncomingPlane
from engine.store.pixels.stacks import StackWriter

THREADS = 16
"""Concurrent reads of files' first bytes, which the location's latency limits: 20 ms each make 128
files take 0.2 s instead of 2.6 s."""


_SOURCES = OpenSources()


def open_source_file(
    file: SourceFile, max_decoded_bytes: int
) -> AbstractContextManager[OpenSource]:
    """Open a source; any failure raises `SourceUnreadable`."""

    def open_file(resources: ExitStack) -> OpenSource:
        handle = resources.enter_context(_handle(file))
        return resources.enter_context(_open(handle, file, max_decoded_bytes))

    return _SOURCES.opened((file, max_decoded_bytes), open_file)


@contextmanager
def _handle(file: SourceFile) -> Iterator[BinaryIO]:
    handle = open_location(file.base).open(file.path)
    try:
        yield handle
    finally:
        with suppress(OSError):  # the share may be gone, but all data is read
            handle.close()


def _open(
    handle: BinaryIO, file: SourceFile, limit: int, detected: Detected | None = None
) -> OpenSource:
    return open_source(
        handle,
        file.source,
        max_decoded_bytes=limit,
        slide_spacing_um=file.slide_spacing_um,
        detected=detected,
    )


def _detect(handle: BinaryIO, file: SourceFile) -> Detected | None:
    """Return a file's format; None if it is ignored, as an empty file without a known suffix is."""
    try:
        return detect_in(handle, file.source)
    except SourceUnreadable as error:
        if error.reason == "empty" and detect_format(file.source, b"") is None:
            return None
        raise


def probe_files(task: ProbeTask) -> list[ProbeResult]:
    """Read the headers of files, without decoding pixels."""
    looked: dict[tuple[str, str], bool] = {}
    return [_probe(file, task, looked) for file in task.files]


def find_ignored(files: Sequence[SourceFile]) -> frozenset[SourceFile]:
    """Return the files that no format claims; files that can't be read are not among them."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="first-bytes") as pool:
        return frozenset(compress(files, pool.map(_is_ignored, files)))


def _is_ignored(file: SourceFile) -> bool:
    if detect_format(file.source, b"") is not None:
        return False
    try:
        with _handle(file) as handle:
            return _detect(handle, file) is None
    except SourceUnreadable:
        return False


def name_missing_format(probe: ProbeResult) -> ProbeResult:
    """Fail a file that a worker ignored, although a package of this process reads its format."""
    if probe.arrivals or probe.reason or probe.withheld or probe.claimed:
        return probe
    key = detect_format(probe.file.source, b"")
    if key is None:
        return probe
    detail = f"a worker lacks the package that reads {key}"
    return ProbeResult(probe.file, reason="not_installed", detail=detail)


def _probe(file: SourceFile, task: ProbeTask, looked: dict[tuple[str, str], bool]) -> ProbeResult:
    try:
        with _handle(file) as handle:
            detected = _detect(handle, file)
            if detected is None:
                return ProbeResult(file)
            if detected.format.confidential and not file.confidential:
                return ProbeResult(file, withheld=True)
            with _open(handle, file, task.max_decoded_bytes, detected) as source:
                planes = source.planes
        sets = {plane.companions for plane in planes} - {()}
        broken = {names for names in sets if _lacks_one(file, names, looked)}
        last = max((plane.place[1] for plane in planes if plane.place is not None), default=0)
        return ProbeResult(
            file,
            tuple(
                _arrival(file, plane, task, geometry_of(plane, last), plane.companions in broken)
                for plane in planes
            ),
        )
    except SourceUnreadable as error:
        if error.reason == "no_pixels":
            return ProbeResult(file, claimed=True)
        return ProbeResult(file, reason=error.reason, detail=str(error.args[1]))


def _lacks_one(file: SourceFile, names: Sequence[str], looked: dict[tuple[str, str], bool]) -> bool:
    """Return whether any companion of a file is missing; ``looked`` caches existence."""
    folder = file.path[: file.path.rfind("/") + 1]
    for name in names:
        path = folder + escape_path(name)
        if (file.base, path) not in looked:
            try:
                looked[file.base, path] = open_location(file.base).stat(path) is not None
            except SourceUnreadable:  # it may exist
                looked[file.base, path] = True
        if not looked[file.base, path]:
            return True
    return False


def _arrival(
    file: SourceFile,
    plane: Plane,
    task: ProbeTask,
    geometry: FileGeometry,
    lacks_planes: bool,
) -> IncomingPlane:
    # Set for every potential slide; its absence marks images catalogued before this was recorded.
    whole = None if file.slide_spacing_um is None or plane.header is not None else (1.0, 1.0)
    findings = (*geometry.findings, *((MISSING_PLANES,) if lacks_planes else ()))
    # Names in files are free text, which may name a patient; a header's are of known words.
    names = () if file.confidential and plane.header is None else plane.channel_names
    if task.channels and len(task.channels) == plane.shape[0]:
        names = task.channels
    elif task.channels:
        findings = (*findings, "channel_names_differ")
    return IncomingPlane(
        file.source,
        plane.fragment,
        plane.shape,
        plane.dtype,
        geometry.spacing_um or task.spacing_um,
        plane.place,
        plane.series,
        plane.header,
        geometry.lattice,
        plane.downsample or whole,
        names,
        plane.orientation,
        tuple(sorted({*plane.findings, *findings})) if findings else plane.findings,
        plane.rescale,
        geometry.position_mm,
        plane.channel_colours,
    )


def noise_windows(pixels: NDArray[Any], separate: bool) -> list[NDArray[np.float32]]:
    """Return the noise windows of each channel (c, y, x), and for colours of the luminance.

    One more entry than channels marks colours: operations then know that the channels are not
    independent measurements (``separate``, see `engine.sources.Plane`).
    """
    return [estimate_noise_windows(plane) for plane in with_luminance(pixels, separate)]


def current_stamp(file: SourceFile) -> FileStamp | None:
    """Return a source's current metadata, or None if it is gone.

    Raises
    ------
    SourceUnreadable
        If the metadata can't be read.
    """
    found = open_location(file.base).stat(file.path)
    return None if found is None else FileStamp(found.size, found.mtime_ns, found.ctime_ns)


def write_shard(store: Store, task: ShardTask) -> ShardResult:
    """Decode the planes of one shard and publish it whole.

    A plane that can't be decoded is left blank. A source that changed since listing is left to the
    next ingest.
    """
    plan, slots = task.plan, task.plan.slots
    writer = StackWriter(store, plan.name)
    corner = [
        int(i) * s for i, s in zip(np.unravel_index(task.shard, plan.grid), plan.shard, strict=True)
    ]
    stop = [min(c + s, n) for c, s, n in zip(corner, plan.shard, plan.shape, strict=True)]
    block = np.zeros([b - a for a, b in zip(corner, stop, strict=True)], plan.dtype)
    taken = [PlaneResult(slot.arrival) for slot in slots]
    by_file: dict[str, list[int]] = {}
    for n, slot in enumerate(slots):
        by_file.setdefault(slot.arrival.source, []).append(n)
    for name, members in by_file.items():
        arrivals = [slots[n].arrival for n in members]
        planes = read_planes_of(task.files[name], arrivals, task.max_decoded_bytes)
        for n, (pixels, result) in zip(members, planes, strict=True):
            taken[n] = result
            if pixels is not None:
                slot = slots[n]
                _, height, width = pixels.shape
                place: list[int | slice] = [slot.t - corner[0], slice(0, pixels.shape[0])]
                if slot.z is not None:
                    place.append(slot.z - corner[2])
                block[(*place, slice(0, height), slice(0, width))] = pixels
    if task.decode_only:
        return ShardResult((plan.name, task.shard), (), tuple(taken))
    try:
        row = writer.write(task.shard, block)
    except Conflict:  # an earlier attempt read other pixels: the sources changed in between
        return ShardResult(
            (plan.name, task.shard), (), tuple(PlaneResult(t.arrival) for t in taken)
        )
    return ShardResult((plan.name, task.shard), (row,), tuple(taken))


def read_planes_of(
    file: SourceFile, arrivals: Sequence[IncomingPlane], max_decoded_bytes: int
) -> list[tuple[NDArray[Any] | None, PlaneResult]]:
    """Return planes (c, y, x) of a source with their digests, or with reason codes.

    If the file changed during the read, all of them are discarded.
    """
    results: list[tuple[NDArray[Any] | None, PlaneResult]] = []
    try:
        with open_source_file(file, max_decoded_bytes) as source:
            places = {plane.fragment: n for n, plane in enumerate(source.planes)}
            for arrival in arrivals:
                results.append(_read_plane(source, places.get(arrival.fragment), arrival))
    except SourceUnreadable as error:
        left = arrivals[len(results) :]
        detail = str(error.args[1])
        results += [(None, PlaneResult(a, reason=error.reason, detail=detail)) for a in left]
    changed = change_of(file)
    return results if changed is None else [(None, changed(arrival)) for arrival in arrivals]


def change_of(file: SourceFile) -> Callable[[IncomingPlane], PlaneResult] | None:
    """Return a constructor of results for a source that changed since listing, else None."""
    try:
        now = current_stamp(file)
    except SourceUnreadable as error:
        return partial(PlaneResult, reason=error.reason, detail=str(error.args[1]))
    if now is None:
        return partial(PlaneResult, reason="vanished", detail="the file went while it was read")
    return None if now == file.stat else PlaneResult


def _read_plane(
    source: OpenSource, index: int | None, arrival: IncomingPlane
) -> tuple[NDArray[Any] | None, PlaneResult]:
    try:
        if index is None or source.planes[index].shape != arrival.shape:
            return None, PlaneResult(arrival)
        pixels = source.read(index)
    except SourceUnreadable as error:
        return None, PlaneResult(arrival, reason=error.reason, detail=str(error.args[1]))
    windows = noise_windows(pixels, source.planes[index].separate)
    noise = tuple(merge_noise(each) for each in windows)
    return pixels, PlaneResult(arrival, digest_plane(pixels), noise)
