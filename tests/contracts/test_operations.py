"""Contract of operations that the engine relies on: one suite for every operation."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import ConfigError, ParameterError, UsageError
from engine.geometry import plan_tiles
from engine.operations.base import INPUTS, LABELS, Image, Operation
from engine.operations.functions.creation import create_operation
from engine.store.results import result_schema
from tests.contracts.cases import ALL, Case
from tests.support.images import Counting, computed, discs, grey, put


@pytest.fixture(params=ALL, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def operation(case: Case) -> Operation:
    return case.make(**case.given)


def test_it_says_what_it_is(operation: Operation, case: Case) -> None:
    assert operation.name == case.name
    assert operation.version >= 1
    assert set(operation.inputs) <= set(INPUTS)
    assert set(operation.averaged_columns) <= set(operation.object_schema.names)
    assert set(operation.non_key_parameters) <= set(type(operation).model_fields)
    assert len(operation.key) == 32
    assert operation.halo_px >= 0
    json.dumps(operation.identity, allow_nan=False)
    assert result_schema(operation.object_schema).field("objects").type.value_type == pa.struct(
        list(operation.object_schema)
    )


def test_it_is_small_frozen_and_pickles(operation: Operation) -> None:
    data = pickle.dumps(operation)
    assert len(data) < 2_000
    back = pickle.loads(data)
    assert (back, back.key) == (operation, operation.key)
    with pytest.raises(ValueError, match="frozen"):
        operation.version_of = 3  # type: ignore[attr-defined]


def test_its_key_is_the_same_in_every_process() -> None:
    made = [case.make(**case.given) for case in ALL]
    for case, operation in zip(ALL, made, strict=True):
        assert case.make(**dict(reversed(list(case.given.items())))).key == operation.key
    program = (
        "import sys, pickle; print(*(o.key for o in pickle.loads(bytes.fromhex(sys.argv[1]))))"
    )
    keys = subprocess.run(
        [sys.executable, "-c", program, pickle.dumps(made).hex()],
        env={**os.environ, "PYTHONHASHSEED": "12345"},  # ours is another one
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert keys == [operation.key for operation in made]


def test_its_key_holds_what_changes_the_answer(operation: Operation, case: Case) -> None:
    assert bool(case.other) == bool(operation.parameters)
    if case.other:
        assert case.make(**{**case.given, **case.other}).key != operation.key
    assert case.make(**{**case.given, **case.neutral}).key == operation.key

    assert newer(operation, case).key != operation.key


def newer(operation: Operation, case: Case) -> Operation:
    if case.newer is not None:
        return case.newer(**case.given)

    class Next(type(operation)):  # type: ignore[misc]
        version = operation.version + 1

    return Next(**case.given)  # type: ignore[no-any-return]


def test_its_parameters_are_checked_and_named(case: Case) -> None:
    assert len(case.wrong) == bool(case.other)
    for name, value in case.wrong.items():
        with pytest.raises(ParameterError, match=name) as error:
            case.make(**{**case.given, name: value})
        assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=f"{case.name} has no parameter 'no_such_parameter'"):
        case.make(**case.given, no_such_parameter=1)


def test_an_error_says_whether_what_is_declared_or_what_is_given_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"toml, operations.circles: .+ did you mean 'radius_px'"):
        create_operation("circles", {"radius_pix": 3}, {"polarity": "dark"})
    with pytest.raises(UsageError, match=r"^circles has no parameter 'radius_pix'"):
        create_operation("circles", {"polarity": "dark"}, {"radius_pix": 3})
    with pytest.raises(UsageError, match="'circels'; did you mean 'circles'"):
        create_operation("circels", {}, {})


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_without_end_are_no_parameters(value: str) -> None:
    """Keys could not tell them apart."""
    with pytest.raises(ParameterError, match="finite"):
        engine.circles(radius_px=(8.0, float(value)))
    with pytest.raises(ParameterError, match="finite"):
        engine.circles(min_support=float(value))


def test_its_parameters_survive_toml(operation: Operation, case: Case, tmp_path: Path) -> None:
    from engine.store.config import declare_operation

    cohort = engine.create(tmp_path / "cohort")
    assert declare_operation(cohort.store, case.name, operation.parameters, replace=False)
    assert case.make(**cohort.config.operations[case.name]).key == operation.key


def columns_of(operation: Operation, image: Image) -> pd.DataFrame:
    found = operation.measure(image)
    assert {len(found[name]) for name in operation.object_schema.names} in [
        {n} for n in range(10_000)
    ]
    arrays = {f.name: pa.array(found[f.name], f.type) for f in operation.object_schema}
    return pa.table(arrays).to_pandas()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("value", [0, 200])
def test_a_blank_image_is_answered_for(
    operation: Operation, case: Case, dtype: str, value: int
) -> None:
    image = Image(np.full((1, 70, 90), value, dtype))
    if dtype in case.refused:
        with pytest.raises(engine.ImageFailed):
            operation.measure(image)
        return
    found = columns_of(operation, image)
    if operation.name == "circles":
        assert len(found) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 200), (3, 40, 50), (4, 33, 65)])
def test_odd_shapes_are_answered_for(operation: Operation, shape: tuple[int, ...]) -> None:
    columns_of(operation, Image(grey(1, shape)))


def test_the_answer_does_not_change(operation: Operation) -> None:
    pixels = discs(3)[None]
    before = pixels.copy()
    first = columns_of(operation, Image(pixels))
    columns_of(operation, Image(discs(4)[None]))  # nothing is left over from another image
    pd.testing.assert_frame_equal(columns_of(operation, Image(pixels)), first)
    assert np.array_equal(pixels, before)
    pixels.flags.writeable = False
    pd.testing.assert_frame_equal(columns_of(operation, Image(pixels)), first)


def test_blocks_with_their_halo_give_the_answer_of_the_whole(
    operation: Operation, case: Case
) -> None:
    if not case.local:
        pytest.skip(f"{case.name} measures whole blocks")
    plane = discs(5, (500, 700), radii=tuple(np.linspace(9, 24, 30)))
    noise = (2.0,)
    whole = columns_of(operation, Image(plane[None], noise))
    blocks = [
        columns_of(
            operation,
            Image(
                plane[None][:, *tile.read.slices].copy(),
                noise,
                origin=tile.read.start,
                core_region=tile.write,
            ),
        )
        for tile in plan_tiles(plane.shape, (256, 256), operation.halo_px)
    ]
    assert len(whole) >= 15
    together = pd.concat([b for b in blocks if len(b)]).sort_values(["y", "x"], ignore_index=True)
    pd.testing.assert_frame_equal(together, whole.sort_values(["y", "x"], ignore_index=True))


def fail_with(kind: type[Exception]) -> Callable[..., Any]:
    def measure(self: Operation, image: Image) -> Any:
        if image.pixels.max() == 255:  # the bad one
            raise kind("CANARY of the file")
        none: dict[str, Any] = {spec.name: [] for spec in self.object_schema}
        if self.has_instances:
            none[LABELS] = np.zeros(image.pixels.shape[1:], np.uint32)
        return none

    return measure


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (engine.ImageFailed, "CANARY of the file"),  # its argument is the code
        (ZeroDivisionError, "zero_division_error"),
        (RecursionError, "recursion_error"),
        (MemoryError, "out_of_memory"),
        (OSError, "oserror"),
        (StopIteration, "stop_iteration"),
    ],
)
def test_an_exception_is_a_failed_row_with_a_code(
    operation: Operation,
    staffed: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    code: str,
) -> None:
    for n in range(3):
        pixels: NDArray[Any] = grey(n, (30, 30))
        pixels[0, 0] = 255 if n == 1 else 0
        put(tmp_path / "data" / f"i{n}.png", pixels)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=staffed)
    monkeypatch.setattr(type(operation), "measure", fail_with(kind))
    report = cohort.run(operation, client=staffed)
    assert (report.published, report.failed, dict(report.reasons)) == (3, 1, {code: 1})
    rows = cohort.table(f"{report.tables[1]}").set_index("name")
    assert rows["status"].to_dict() == {"i0": "done", "i1": "failed", "i2": "done"}
    assert rows.loc["i1", "reason"] == code


class Looking(Counting):
    """Keep each input; for workers in this process."""

    name: ClassVar[str] = "looking"
    seen: ClassVar[list[Image]] = []

    def measure(self, image: Image) -> Any:
        self.seen.append(image)
        return super().measure(image)


def test_what_it_is_given_of_an_image(client: Client, tmp_path: Path) -> None:
    """An operation sees pixels, noise, spacing and the name, and nothing else of a file."""
    (tmp_path / "data").mkdir()
    pixels = grey(9, (50, 60), "uint16")
    tifffile.imwrite(
        tmp_path / "data" / "a.tif",
        pixels,
        resolution=(10000, 20000),
        resolutionunit="CENTIMETER",
    )
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    Looking.seen.clear()
    cohort.run(Looking(log=str(tmp_path / "log")), client=client)
    (image,) = Looking.seen
    assert np.array_equal(image.pixels, pixels[None])
    assert image.spacing_um == (0.5, 1.0)
    assert (image.origin, image.source) == ((0, 0), "data/a.tif")
    assert image.core_region is not None
    assert image.core_region.shape == (50, 60)
    assert len(image.noise_sd) == 1
    assert computed(tmp_path / "log") == ["data/a.tif"]


def test_its_outlines_are_finite_polygons_or_marks(operation: Operation) -> None:
    table = columns_of(operation, Image(discs(3)[None]))
    outlines = operation.outlines({name: table[name].to_numpy() for name in table.columns})
    if operation.name == "circles":
        assert len(outlines) == len(table) > 0
    for outline in outlines:
        assert outline.points.ndim == 2
        assert outline.points.shape[1] == 2
        assert np.isfinite(outline.points).all()
    none = {
        spec.name: np.array([], spec.type.to_pandas_dtype()) for spec in operation.object_schema
    }
    assert operation.outlines(none) == []


def test_it_can_be_looked_at(operation: Operation, staffed: Client, tmp_path: Path) -> None:
    """Whatever is asked, there is a page with a picture of each image and what was found in it."""
    from engine.store.pictures import OVERLAY, read_picture_index

    images = [discs(1), discs(2), grey(3, (60, 70, 3)), np.zeros((50, 40), np.uint16)]
    for n, pixels in enumerate(images):
        put(tmp_path / "data" / "d" / f"s{n % 2}" / "e" / f"i{n}.png", pixels)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=staffed)
    cohort.run(operation, client=staffed)
    report = cohort.qc(operation, client=staffed)
    assert (report.shown, report.failed) == (len(images), 0)
    folder = Path(report.page).parent
    assert "i3" in (folder / "index.html").read_text()
    noted = read_picture_index(cohort.store, f"qc/{folder.name}")
    assert len({name for kind, name in noted if kind == OVERLAY}) == len(images)
    if operation.name == "circles":
        assert sum(picture.outlines for picture in noted.values()) >= 4
    again = cohort.qc(operation, client=staffed)
    assert (again.made, again.page_made) == (0, False)
    assert cohort.verify().problems == ()
