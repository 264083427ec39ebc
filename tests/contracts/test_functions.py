"""Requirements on functions that become operations, and the errors of unsuitable ones."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from numpy.typing import NDArray

from engine import Image, ImageFailed, circles, from_function
from engine.errors import ParameterError, UsageError
from engine.geometry import Region
from engine.operations import registry
from engine.operations.functions.function import NotPortable
from tests.contracts.cases import Spots
from tests.support.operations import install_below


def bright(
    image: NDArray[Any], above: float = 10.0, span: tuple[int, int] = (0, 9)
) -> dict[str, Any]:
    assert isinstance(span, tuple)
    return {"share": (image > above).mean()}


GIVEN: dict[str, Any] = {"name": "bright", "schema": {"share": float}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "circles"}, "an installed operation"),
        ({"name": "../x"}, "lower-case letters"),
        ({"name": "Bright"}, "lower-case letters"),
        ({"version": 0}, "at least 1"),
        ({"version": True}, "whole number"),
        ({"schema": {}}, "at least one column"),
        ({"schema": {"a": "much"}}, "a dtype"),
        ({"schema": {"source": str}}, "tables have a column called so"),
        ({"schema": {"object": int}}, "tables have a column called so"),
        ({"parameters": {"abvoe": 3}}, "did you mean 'above'.+ parameters: above, span"),
        ({"parameters": {"above": "much"}}, "above is 'much'"),
        ({"parameters": {"above": float("nan")}}, "a finite number"),
        ({"averaged_columns": ["shares"]}, "out of share"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_function(bright, **{**GIVEN, **changed})


def test_functions_that_can_not_be() -> None:
    with pytest.raises(ParameterError, match="a function of an image"):
        from_function(lambda: {}, **GIVEN)
    with pytest.raises(ParameterError, match="it is taken"):
        from_function(lambda image, version=1: {}, **GIVEN)
    with pytest.raises(ParameterError, match="numbers, texts, lists"):
        from_function(lambda image, model: {}, **GIVEN, parameters={"model": object()})
    with pytest.raises(ParameterError, match="numbers, texts, lists"):
        from_function(lambda image, most: {}, **GIVEN, parameters={"most": float("inf")})
    lock, large = threading.Lock(), np.ones(300_000)
    with pytest.raises(NotPortable, match="lock"):
        from_function(lambda image: {"share": float(lock.locked())}, **GIVEN)
    with pytest.raises(NotPortable, match=r"carries 2,4\d\d,\d\d\d bytes"):
        from_function(lambda image: {"share": large.mean()}, **GIVEN)


def test_parameters_count_with_their_defaults_and_types() -> None:
    operation = from_function(bright, **GIVEN)
    assert operation.parameters == {"above": 10.0, "span": [0, 9]}
    for same in ({"above": 10}, {"above": "10", "span": [0, 9]}, {"span": (0, 9)}):
        assert from_function(bright, **GIVEN, parameters=same).key == operation.key
    assert from_function(bright, **GIVEN, parameters={"above": 11}).key != operation.key
    assert from_function(bright, **GIVEN, version=2).key != operation.key
    partly = functools.partial(bright, above=30.0)
    assert from_function(partly, **GIVEN).parameters["above"] == 30.0
    free = from_function(lambda image, **more: {"share": more["a"]}, **GIVEN, parameters={"a": 2})
    assert free(np.ones((3, 3)))["share"].tolist() == [2]


def test_columns_have_types_that_a_ledger_holds() -> None:
    schema = {"a": "uint8", "b": np.float16, "c": str, "d": pa.list_(pa.int32()), "e": bool}
    operation = from_function(bright, name="bright", schema=schema)
    types = [pa.int16(), pa.float32(), pa.string(), pa.list_(pa.int32()), pa.bool_()]
    assert operation.object_schema == pa.schema(list(zip("abcde", types, strict=True)))
    assert operation.averaged_columns == ("a", "b")
    assert (
        from_function(bright, name="bright", schema=operation.object_schema).object_schema
        == operation.object_schema
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "answer_without_columns"),
        ([1.0], "answer_without_columns"),
        ({"mean": 1.0}, "no_column_share"),
    ],
)
def test_answers_that_are_none(answer: Any, reason: str) -> None:
    operation = from_function(lambda image: answer, **GIVEN)
    with pytest.raises(ImageFailed) as failed:
        operation(np.ones((4, 4)))
    assert failed.value.args == (reason,)


def test_answers_of_all_kinds() -> None:
    rows = [{"share": 1.0, "more": "x"}, {"share": 2.0, "more": "y"}]
    for answer, expected in (
        (pd.DataFrame(rows, index=[7, 8]), [1.0, 2.0]),
        ({"share": [1.0, 2.0]}, [1.0, 2.0]),
        ({"share": np.float32(3)}, [3.0]),
        ({"share": []}, []),
    ):
        operation = from_function(functools.partial(_return, answer), **GIVEN)
        assert operation(np.ones((4, 4)))["share"].tolist() == expected


def _return(answer: Any, image: NDArray[Any]) -> Any:
    return answer


def labelled(image: xr.DataArray) -> dict[str, Any]:
    assert image.dims == ("c", "y", "x")
    return {"um": float(image.y[-1]), "unit": str(image.y.attrs["units"])}


def test_a_data_array_has_its_place_and_reads_the_spacing() -> None:
    operation = from_function(labelled, name="labelled", schema={"um": float, "unit": str})
    assert operation.inputs == ("content", "spacing")
    assert from_function(bright, **GIVEN).inputs == ("content",)
    image = Image(np.ones((1, 4, 4)), spacing_um=(0.5, 2.0), origin=(10, 0))
    assert operation.measure(image) == {"um": [6.5], "unit": ["micrometer"]}


def test_a_block_keeps_what_it_answers_for() -> None:
    def corners(image: NDArray[Any]) -> dict[str, Any]:
        return {"y": [0, image.shape[1] - 1], "x": [0, image.shape[2] - 1], "n": [1, 2]}

    schema = {"y": float, "x": float, "n": int}
    operation = from_function(corners, name="corners", schema=schema, halo_px=5)
    assert operation.halo_px == 5
    block = Image(np.ones((1, 20, 30)), origin=(95, 0), core_region=Region((100, 0), (120, 30)))
    found = {name: list(values) for name, values in operation.measure(block).items()}
    assert found == {"y": [114], "x": [29], "n": [2]}
    whole = Image(np.ones((1, 20, 30)), core_region=Region((0, 0), (20, 30)))
    assert list(operation.measure(whole)["n"]) == [1, 2]


def test_what_has_a_radius_is_drawn_as_circles_are() -> None:
    schema = {"y": float, "x": float, "radius_px": float}
    operation = from_function(bright, name="drawn", schema=schema)
    found = {name: np.array([value]) for name, value in zip(schema, (20.0, 30.0, 5.0), strict=True)}
    (one,), (other,) = operation.outlines(found), circles().outlines(found)
    assert np.array_equal(one.points, other.points)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("not_there:Kind", "ModuleNotFoundError: No module named 'not_there'"),
        ("engine:NoSuchKind", "AttributeError"),
        ("engine:open", "not a subclass of engine.Operation"),
        ("tests.contracts.cases:Spots", "it calls itself 'spots'"),
    ],
)
def test_a_broken_package_is_named_and_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, problem: str
) -> None:
    offered = {"broken": value, "spots": "tests.contracts.cases:Spots"}
    monkeypatch.syspath_prepend(install_below(tmp_path, offered))
    with pytest.raises(registry.BrokenOperation, match=problem) as broken:
        registry.find_operation("broken")
    assert value in str(broken.value)
    assert registry.find_operation("spots") is Spots
    assert set(registry.operations()) == {*registry.BUILT_IN, "spots"}
    names = ", ".join(sorted([*registry.BUILT_IN, "broken", "spots"]))
    with pytest.raises(registry.NoOperation, match=names):
        registry.find_operation("spost")
