"""Select a level of each DICOM slide: its levels are instances of one series. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from engine.header import LEVEL_UM
from engine.sources.scaling import SAME
from engine.store.pixels.layout import IncomingPlane


def choose_levels(
    arrivals: Sequence[IncomingPlane],
    spacing_um: float | None,
    held: Callable[[str, str], Mapping[str, str]],
) -> tuple[list[IncomingPlane], list[IncomingPlane]]:
    """Return the planes to ingest (selected levels, and all that are not slides), and the rest.

    Parameters
    ----------
    arrivals
        Planes with pseudonymised identities.
    spacing_um
        Pixel size to read slides at; None is the scanner's own, so the finest level.
    held
        Function that returns a fact of the catalogued images of a series, by source.

    Returns
    -------
    Selects for each series the coarsest level that is fine enough, or the finest; if several
    instances have that level, such as optical paths, all are selected. A level no better than a
    catalogued one is skipped. Selected planes record their downsampling factor from the finest
    level.
    """
    levels: dict[str, list[tuple[float, IncomingPlane]]] = defaultdict(list)
    for arrival in arrivals:
        if arrival.header is not None and LEVEL_UM in (facts := dict(arrival.header.terms)):
            series = arrival.header.identity.series
            levels[series].append((float(facts[LEVEL_UM]), arrival))
    left_out: list[IncomingPlane] = []
    scaled: dict[tuple[str, str], IncomingPlane] = {}
    for series, members in levels.items():
        sources = {arrival.source for _, arrival in members}
        there = {
            source: float(level)
            for source, level in held(series, LEVEL_UM).items()
            if source not in sources
        }
        sizes = [*there.values(), *(level for level, _ in members)]
        enough = [s for s in sizes if spacing_um is not None and s <= spacing_um * (1 + SAME)]
        best = max(enough) if enough else min(sizes)
        left_out += [arrival for level, arrival in members if abs(level - best) > SAME * best]
        for _, arrival in members:
            if arrival.spacing_um is not None:
                down = math.sqrt(math.prod(arrival.spacing_um)) / min(sizes)
                scaled[arrival.source, arrival.fragment] = replace(arrival, downsample=(down, down))
    dropped = {(arrival.source, arrival.fragment) for arrival in left_out}
    names = [(arrival.source, arrival.fragment) for arrival in arrivals]
    kept = [
        scaled.get(name, arrival)
        for name, arrival in zip(names, arrivals, strict=True)
        if name not in dropped
    ]
    return kept, left_out
