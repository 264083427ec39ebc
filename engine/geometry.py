"""Boxes in pixels, and tilings of a plane. Imports only the engine's errors."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import TilingError

YX = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Region:
    """Half-open box of a plane, (y, x) in pixels: ``start`` is inside, ``stop`` is not.

    Examples
    --------
    >>> Region((0, 2), (4, 6)).shape
    (4, 4)
    """

    start: YX
    stop: YX

    @property
    def shape(self) -> YX:
        """Height and width, pixels."""
        return self.stop[0] - self.start[0], self.stop[1] - self.start[1]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for an array whose last two axes are y and x."""
        return slice(self.start[0], self.stop[0]), slice(self.start[1], self.stop[1])

    def grow(self, halo: int, shape: YX) -> Region:
        """Return the region with ``halo`` more pixels on each side, clipped to a plane."""
        return Region(
            (max(0, self.start[0] - halo), max(0, self.start[1] - halo)),
            (min(shape[0], self.stop[0] + halo), min(shape[1], self.stop[1] + halo)),
        )

    def holds(self, y: float, x: float) -> bool:
        """Return True if the region contains a point; each point is in one region of a tiling.

        A pixel covers half a pixel on each side of its centre, so the border between two regions is
        at ``start - 0.5``.
        """
        return (
            self.start[0] - 0.5 <= y < self.stop[0] - 0.5
            and self.start[1] - 0.5 <= x < self.stop[1] - 0.5
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """Region to write, and the larger region to read for it."""

    write: Region
    read: Region


def plan_tiles(shape: YX, tile: YX, halo: int) -> tuple[Tile, ...]:
    """Cover a plane so that every pixel is written by exactly one tile.

    Parameters
    ----------
    shape
        Plane size (y, x), pixels.
    tile
        Write-region size (y, x), pixels; a multiple of the output shard.
    halo
        Context read on each side, pixels. Clipped at the plane's edge.

    Returns
    -------
    Tiles in row-major order; edge tiles are smaller, never padded.

    Raises
    ------
    TilingError
        If a size is not positive or ``halo`` is negative.

    Examples
    --------
    >>> left, right = plan_tiles((4, 6), tile=(4, 4), halo=1)
    >>> right.read
    Region(start=(0, 3), stop=(4, 6))
    """
    if min(*shape, *tile) < 1:
        raise TilingError(f"plane {shape} and tile {tile} must be positive")
    if halo < 0:
        raise TilingError(f"the halo is {halo}, but can't be negative")
    tiles = []
    for y in range(0, shape[0], tile[0]):
        for x in range(0, shape[1], tile[1]):
            write = Region((y, x), (min(y + tile[0], shape[0]), min(x + tile[1], shape[1])))
            tiles.append(Tile(write, write.grow(halo, shape)))
    return tuple(tiles)
