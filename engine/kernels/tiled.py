"""Tiled inference: what a network says of a plane of any size, in the memory of a few tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, ParameterError
from engine.geometry import Region
from engine.kernels.tiled_plan import Span, TiledPlan

Read = Callable[[Region], NDArray[Any]]
"""Gives the pixels of a region: (c, y, x)."""

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Gives planes (n, k, y, x) of a batch (n, c, y, x); raises MemoryError where it does not fit."""

Item = TypeVar("Item")


class NoMemoryLeft(EngineError, MemoryError):
    """Not even one tile fits: (tile's shape (c, y, x),)."""

    def __str__(self) -> str:
        _, height, width = self.args[0]
        return (
            f"No memory is left for one tile of {height} x {width} px, halo included. Ask for a "
            "smaller tile, or give the worker more memory."
        )


class Batches:
    """Predicts in batches, and halves them for good when memory runs out.

    Parameters
    ----------
    predict
        What answers for a batch.
    size
        Most images in a batch, to begin with.

    Attributes
    ----------
    size
        Most images in a batch, now.
    """

    def __init__(self, predict: Predict, size: int) -> None:
        if size < 1:
            raise ParameterError("batch", size, "at least 1")
        self._predict = predict
        self.size = size

    def __call__(self, pixels: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """Yield planes (k, y, x) for each image of (n, c, y, x), in order.

        Raises
        ------
        NoMemoryLeft
            If not even one image fits.
        """
        done = 0
        while done < len(pixels):
            batch = pixels[done : done + self.size]
            try:
                answers = self._predict(batch)
            except MemoryError:
                if len(batch) == 1:
                    raise NoMemoryLeft(pixels.shape[1:]) from None
                self.size = len(batch) // 2
                continue
            done += len(batch)
            yield from answers


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A part of the plane that is finished: planes (k, y, x) float32 of a region."""

    region: Region
    planes: NDArray[np.float32]


def predict_tiled(read: Read, plan: TiledPlan, batches: Batches) -> Iterator[Band]:
    """Answer for a plane window by window, blending the answers where windows overlap.

    Bands run along the plane's shorter side and come in order along the longer one; together they
    are the plane, and each is given out once no window is left that could change it. Memory is
    that of one line of windows across the shorter side, whatever the longer side is.

    Parameters
    ----------
    read
        Gives the pixels of a region; called from a second thread, one window line's batch ahead.
    plan
        Windows and their weights.
    batches
        What answers, in batches; windows of one shape go together.

    Yields
    ------
    Bands whose planes are weighted means of the windows' answers.

    Raises
    ------
    NoMemoryLeft
        If not even one window fits.

    Examples
    --------
    >>> from engine.kernels.tiled_plan import plan_tiled
    >>> pixels = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6)
    >>> read = lambda region: pixels[:, *region.slices]
    >>> plan = plan_tiled((4, 6), tile=(2, 2), halo=1)
    >>> bands = list(predict_tiled(read, plan, Batches(lambda batch: batch * 2, size=4)))
    >>> [band.region.start for band in bands]
    [(0, 0), (0, 1), (0, 3)]
    >>> np.array_equal(np.concatenate([band.planes for band in bands], axis=2), pixels * 2)
    True
    """
    upright = plan.shape[0] >= plan.shape[1]
    lines, across = (plan.y, plan.x) if upright else (plan.x, plan.y)
    short = min(plan.shape)
    ends = [line.start for line in lines[1:]] + [max(plan.shape)]
    wholes = _ahead(
        (number, group, _read_windows(read, lines[number], group, upright))
        for number in range(len(lines))
        for group in _groups(across, batches.size)
    )
    carried: NDArray[np.float32] | None = None
    sums: NDArray[np.float32] | None = None
    for number, of_line in groupby(wholes, key=lambda item: item[0]):
        line = lines[number]
        sums = None
        for _, group, pixels in of_line:
            for span, answer in zip(group, batches(pixels), strict=True):
                if sums is None:
                    sums = _begin(answer.shape[0], line, short, carried, upright)
                _add(sums, line, span, answer, upright)
        if sums is None:  # pragma: no cover - a line has windows
            continue
        length = ends[number] - line.start
        # Copies, so that a band kept by the caller does not keep the whole line.
        band = (sums[:, :length] if upright else sums[:, :, :length]).copy()
        carried = (sums[:, length:] if upright else sums[:, :, length:]).copy()
        start = (line.start, 0) if upright else (0, line.start)
        stop = (ends[number], short) if upright else (short, ends[number])
        yield Band(Region(start, stop), band)


def _groups(spans: tuple[Span, ...], size: int) -> Iterator[list[Span]]:
    """Yield up to ``size`` neighbours of one length at a time."""
    for _, alike in groupby(spans, key=lambda span: span.stop - span.start):
        listed = list(alike)
        for first in range(0, len(listed), size):
            yield listed[first : first + size]


def _read_windows(read: Read, line: Span, group: list[Span], upright: bool) -> NDArray[Any]:
    regions = [
        Region((line.start, span.start), (line.stop, span.stop))
        if upright
        else Region((span.start, line.start), (span.stop, line.stop))
        for span in group
    ]
    return np.stack([read(region) for region in regions])


def _begin(
    planes: int, line: Span, short: int, carried: NDArray[np.float32] | None, upright: bool
) -> NDArray[np.float32]:
    """Return a line's sums, with what the lines before have already said of it."""
    length = line.stop - line.start
    sums = np.zeros((planes, length, short) if upright else (planes, short, length), np.float32)
    if carried is not None:
        sums[:, : carried.shape[1], : carried.shape[2]] = carried
    return sums


def _add(
    sums: NDArray[np.float32], line: Span, span: Span, answer: NDArray[np.float32], upright: bool
) -> None:
    part = slice(span.start, span.stop)
    if upright:
        weights = np.outer(line.weights, span.weights)
        sums[:, :, part] += answer * weights
    else:
        weights = np.outer(span.weights, line.weights)
        sums[:, part] += answer * weights


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, making the next one in another thread meanwhile."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="tiles") as pool:
        upcoming = pool.submit(next, iterator, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, iterator, None)
            yield item


def classes_of(planes: NDArray[np.float32], classes: int) -> NDArray[np.uint8]:
    """Return the most probable class of each pixel, (y, x); of equals, the first.

    Parameters
    ----------
    planes
        (k, y, x): probabilities of the classes, then whatever else a network says.
    classes
        How many of the planes are classes.
    """
    return planes[:classes].argmax(axis=0).astype(np.uint8)
