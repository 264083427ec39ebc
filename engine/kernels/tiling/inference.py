"""Tiled inference on a plane of any size, with memory for a few tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, ParameterError
from engine.geometry import Region
from engine.kernels.tiling.plan import Span, TiledPlan

Read = Callable[[Region], NDArray[Any]]
"""Return the pixels of a region: (c, y, x)."""

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Return planes (n, k, y, x) of a batch (n, c, y, x); raises MemoryError if it does not fit."""

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
    """Predict in batches, and halve their size permanently when memory runs out.

    Parameters
    ----------
    predict
        Prediction function for a batch.
    size
        Initial maximum of images in a batch.

    Attributes
    ----------
    size
        Current maximum of images in a batch.
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
    """Finished part of a plane: planes (k, y, x) float32 of a region."""

    region: Region
    planes: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Input plane: its reader, and the windows that cover it."""

    read: Read
    plan: TiledPlan


def predict_tiled(read: Read, plan: TiledPlan, batches: Batches) -> Iterator[Band]:
    """Predict a plane window by window, blending the predictions where windows overlap.

    Bands run along the plane's shorter side and come in order along the longer one; together they
    cover the plane, and each is yielded once no remaining window can change it. Memory is that of
    one line of windows across the shorter side, independent of the longer side.

    Parameters
    ----------
    read
        Reader of a region's pixels; called from a second thread, one batch ahead.
    plan
        Windows and their weights.
    batches
        Batched prediction; windows of one shape share batches.

    Yields
    ------
    Bands with the weighted means of the windows' predictions.

    Raises
    ------
    NoMemoryLeft
        If not even one window fits.

    Examples
    --------
    >>> from engine.kernels.tiling.plan import plan_tiled
    >>> pixels = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6)
    >>> read = lambda region: pixels[:, *region.slices]
    >>> plan = plan_tiled((4, 6), tile=(2, 2), halo=1)
    >>> bands = list(predict_tiled(read, plan, Batches(lambda batch: batch * 2, size=4)))
    >>> [band.region.start for band in bands]
    [(0, 0), (0, 2), (0, 4)]
    >>> np.array_equal(np.concatenate([band.planes for band in bands], axis=2), pixels * 2)
    True
    """
    return (band for _, band in predict_planes([Plane(read, plan)], batches))


def predict_planes(planes: Iterable[Plane], batches: Batches) -> Iterator[tuple[int, Band]]:
    """Predict planes one after the other, as `predict_tiled` does, with shared batches.

    So images smaller than a tile fill batches together. Consecutive windows of the same shape share
    a batch.

    Yields
    ------
    The plane's number, and its bands in order.
    """
    number, sweep = -1, None
    for windows, pixels in _ahead(_batched(_windows(planes), batches)):
        for window, answer in zip(windows, batches(pixels), strict=True):
            if window.plane != number:
                number, sweep = window.plane, _Sweep(window.plan)
            band = sweep.add(window, answer) if sweep is not None else None
            if band is not None:
                yield number, band


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Window of a plane, and its pixels (c, y, x)."""

    plane: int
    plan: TiledPlan
    line: int
    span: int
    pixels: NDArray[Any]


def _windows(planes: Iterable[Plane]) -> Iterator[_Window]:
    for number, plane in enumerate(planes):
        plan = plane.plan
        lines, across = (plan.y, plan.x) if plan.upright else (plan.x, plan.y)
        for n, line in enumerate(lines):
            for m, span in enumerate(across):
                y, x = (line, span) if plan.upright else (span, line)
                region = Region((y.start, x.start), (y.stop, x.stop))
                yield _Window(number, plan, n, m, plane.read(region))


def _batched(
    windows: Iterable[_Window], batches: Batches
) -> Iterator[tuple[list[_Window], NDArray[Any]]]:
    """Yield batches of consecutive windows of one shape, at most the current batch size."""
    group: list[_Window] = []
    for window in windows:
        kind = window.pixels.shape, window.pixels.dtype
        if group and (
            len(group) >= batches.size or kind != (group[0].pixels.shape, group[0].pixels.dtype)
        ):
            yield group, np.stack([each.pixels for each in group])
            group = []
        group.append(window)
    if group:
        yield group, np.stack([each.pixels for each in group])


class _Sweep:
    """Accumulator of the predictions of a plane's windows that releases final bands."""

    def __init__(self, plan: TiledPlan) -> None:
        self._plan = plan
        self._lines, self._across = (plan.y, plan.x) if plan.upright else (plan.x, plan.y)
        self._ends = [line.first for line in self._lines[1:]] + [max(plan.shape)]
        self._sums: NDArray[np.float32] | None = None
        self._carried: NDArray[np.float32] | None = None

    def add(self, window: _Window, answer: NDArray[np.float32]) -> Band | None:
        line, span = self._lines[window.line], self._across[window.span]
        if len(self._lines) == len(self._across) == 1:  # a small image: nothing to accumulate
            y, x = (line, span) if self._plan.upright else (span, line)
            return Band(Region((0, 0), self._plan.shape), answer[:, y.counted, x.counted])
        if self._sums is None:
            self._sums = self._begin(answer.shape[0], line)
        part = slice(span.first, span.last)
        if self._plan.upright:
            counted = answer[:, line.counted, span.counted]
            self._sums[:, :, part] += counted * np.outer(line.weights, span.weights)
        else:
            counted = answer[:, span.counted, line.counted]
            self._sums[:, part] += counted * np.outer(span.weights, line.weights)
        return self._finish(window.line) if window.span == len(self._across) - 1 else None

    def _begin(self, planes: int, line: Span) -> NDArray[np.float32]:
        """Return a line's sums, initialised with the contributions of the lines before."""
        length, short = line.last - line.first, min(self._plan.shape)
        shape = (planes, length, short) if self._plan.upright else (planes, short, length)
        sums = np.zeros(shape, np.float32)
        if self._carried is not None:
            sums[:, : self._carried.shape[1], : self._carried.shape[2]] = self._carried
        return sums

    def _finish(self, number: int) -> Band:
        sums, upright, short = self._sums, self._plan.upright, min(self._plan.shape)
        if sums is None:  # pragma: no cover - a line ends with a window
            raise ParameterError("windows", number, "in order")
        first, end = self._lines[number].first, self._ends[number]
        length = end - first
        # Copies, so that a band kept by the caller does not keep the whole line in memory.
        band = (sums[:, :length] if upright else sums[:, :, :length]).copy()
        self._carried = (sums[:, length:] if upright else sums[:, :, length:]).copy()
        self._sums = None
        start = (first, 0) if upright else (0, first)
        stop = (end, short) if upright else (short, end)
        return Band(Region(start, stop), band)


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, computing the next one in another thread at the same time."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="tiles") as pool:
        upcoming = pool.submit(next, iterator, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, iterator, None)
            yield item


def classes_of(planes: NDArray[np.float32], classes: int) -> NDArray[np.uint8]:
    """Return the most probable class of each pixel, (y, x); the first one of equals.

    Parameters
    ----------
    planes
        (k, y, x): probabilities of the classes, then any further planes of the network.
    classes
        Number of planes that are classes.
    """
    # One pass per class takes a third of the time of argmax along the first axis.
    best, labels = planes[0], np.zeros(planes.shape[1:], np.uint8)
    for number in range(1, classes):
        np.copyto(labels, np.uint8(number), where=planes[number] > best)
        best = np.maximum(best, planes[number])
    return labels
