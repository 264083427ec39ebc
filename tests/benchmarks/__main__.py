"""All measurements, one after the other; the figures go to build/bench.json too."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

NAMES = (
    "bench_startup",
    "bench_circles",
    "bench_sources",
    "bench_overhead",
    "bench_tiling",
    "bench_batches",
    "bench_segment",
    "bench_marrow",
    "bench_measure",
)


def main() -> None:
    """Run each benchmark and keep its figures."""
    figures = {name: import_module(f"tests.benchmarks.{name}").main() for name in NAMES}
    place = Path("build/bench.json")
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(figures, indent=2))
    print(f"Figures: {place}")


if __name__ == "__main__":
    main()
