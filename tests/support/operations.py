"""Operation with calls that can be counted across processes, and with configurable failures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from engine import Image, ImageFailed, Operation, plugins
from engine.operations import registry


def register(monkeypatch: pytest.MonkeyPatch, name: str, kind: Any) -> None:
    """Add an operation, or a function that makes one, to the built-in ones."""
    module = sys.modules[__name__]
    monkeypatch.setattr(module, f"registered_{name}", kind, raising=False)
    monkeypatch.setitem(registry.BUILT_IN, name, f"{__name__}:registered_{name}")


SLOW_S = 60.0
"""Duration of a slow image, seconds: long enough for a cluster to shrink."""


class Probe(Operation):
    """Brightness of the quarters of an image; none for an image with an odd first pixel.

    Parameters
    ----------
    scale
        Factor of the result: another one gives another key.
    calls
        File to which each call appends the image's source, in one write.
    sick
        JSON file, by source: ``kill`` kills the process, ``fail`` fails the image, ``slow`` takes
        `SLOW_S`, ``stop`` stops the process, the first time. May disappear.
    pause_s
        Duration of each call, so that there is time to kill something.
    """

    name: ClassVar[str] = "probe"
    object_schema: ClassVar[pa.Schema] = pa.schema(
        [("y", pa.float64()), ("x", pa.float64()), ("brightness", pa.float64())]
    )
    object_name: ClassVar[str] = "quarter"
    averaged_columns: ClassVar[tuple[str, ...]] = ("brightness",)
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"calls", "sick", "pause_s"})

    scale: float = 1.0
    calls: str = ""
    sick: str = ""
    pause_s: float = 0.0

    def measure(self, image: Image) -> Mapping[str, Sequence[Any]]:
        """Count the call, and measure."""
        count_call(self.calls, image.source)
        time.sleep(self.pause_s)
        harm = _read(self.sick).get(image.source)
        if harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if harm == "stop" and first_time(f"{self.sick}.stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if harm == "slow":
            time.sleep(SLOW_S)
        if harm == "fail":
            raise ImageFailed("told_to")
        plane = image.pixels[0]
        if plane[0, 0] % 2:
            return {"y": [], "x": [], "brightness": []}
        middle = plane.shape[0] // 2, plane.shape[1] // 2
        corners = [(y, x) for y in (0, middle[0]) for x in (0, middle[1])]
        found = [plane[y : y + middle[0], x : x + middle[1]].mean() for y, x in corners]
        return {
            "y": [float(y) for y, _ in corners],
            "x": [float(x) for _, x in corners],
            "brightness": [float(value) * self.scale for value in found],
        }


class ProbeGpu(Probe):
    """The same operation, on workers with a GPU."""

    name: ClassVar[str] = "probe_gpu"
    resources: ClassVar[Mapping[str, float]] = {"GPU": 1}


class ProbeTpu(Probe):
    """The same operation, on workers with a resource that none has."""

    name: ClassVar[str] = "probe_tpu"
    resources: ClassVar[Mapping[str, float]] = {"TPU": 1}


HERE = {
    "probe": "tests.support.operations:Probe",
    "probe_gpu": "tests.support.operations:ProbeGpu",
    "probe_tpu": "tests.support.operations:ProbeTpu",
}


def install_below(
    folder: Path, operations: Mapping[str, str] = HERE, group: str = plugins.OPERATIONS
) -> Path:
    """Make a folder that installs operations, or formats, if it is on ``PYTHONPATH``; return it."""
    metadata = folder / "operations_for_tests-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: operations-for-tests\nVersion: 1.0\n"
    )
    lines = [f"{name} = {value}\n" for name, value in operations.items()]
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")
    return folder


def count_searches(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Let searches for the entry points of packages append to a list; return it."""
    searches: list[None] = []

    def entry_points() -> importlib.metadata.EntryPoints:
        searches.append(None)
        return importlib.metadata.entry_points()

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return searches


def count_call(path: str, source: str) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    if not path:
        return
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, (source + "\n").encode())
    finally:
        os.close(file)


def first_time(path: str) -> bool:
    """Return whether this is the first call, in any process."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _read(path: str) -> dict[str, str]:
    try:
        return dict(json.loads(Path(path).read_text())) if path else {}
    except FileNotFoundError:
        return {}
