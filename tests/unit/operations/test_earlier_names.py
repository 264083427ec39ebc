"""Unit tests for names of an earlier version, which still work and warn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine.operations.image import Image

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)

RENAMED = {
    "singular": "object_name",
    "quantities": "averaged_columns",
    "watched": "qc_columns",
    "captions": "column_labels",
    "unlisted": "hidden_columns",
    "neutral": "non_key_parameters",
    "objects": "object_schema",
    "by_image": "image_columns",
    "measure_images": "summarise_images",
    "details": "detail_tables",
    "detail_slice": "make_details",
    "summaries": "cohort_tables",
    "summaries_version": "cohort_tables_version",
    "measure_each": "measure_batch",
    "first_use": "first_run_notice",
    "own_threads": "set_threads",
    "runs_on": "compute_device",
    "annotation": "extra_input_digest",
    "labels_objects": "has_object_labels",
}


@pytest.mark.parametrize(("earlier", "name"), RENAMED.items())
def test_a_member_is_read_by_its_earlier_name(earlier: str, name: str) -> None:
    operation = engine.circles(radius_px=(4, 8))
    with pytest.warns(DeprecationWarning, match=f"{earlier} is called {name} now"):
        found = getattr(operation, earlier)
    assert found == getattr(operation, name)


def test_an_operation_may_be_written_with_the_earlier_names() -> None:
    with pytest.warns(DeprecationWarning, match="now") as warned:

        class Brightness(engine.Operation):
            """Mean brightness."""

            name: ClassVar[str] = "brightness"
            objects: ClassVar[pa.Schema] = pa.schema([("mean", pa.float64())])
            singular = "view"
            quantities: ClassVar[tuple[str, ...]] = ("mean",)
            neutral: ClassVar[frozenset[str]] = frozenset({"threads"})

            threads: int = 1

            def measure(self, image: Image) -> Mapping[str, Any]:
                return {"mean": [float(image.pixels.mean())]}

            def runs_on(self) -> str:
                return "tpu"

    assert len(warned) == 5
    operation = Brightness(threads=2)
    assert operation.object_schema.names == ["mean"]
    assert operation.object_name == "view"
    assert operation.averaged_columns == ("mean",)
    assert operation.key == Brightness().key
    assert operation.compute_device() == "tpu"
    assert operation(PIXELS).to_dict("list") == {"view": [1], "mean": [5.5]}


def test_an_operation_with_the_new_names_does_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    assert engine.circles(radius_px=(4, 8)).object_name == "circle"
    assert not [w for w in recwarn if issubclass(w.category, DeprecationWarning)]


def test_functions_take_their_arguments_by_the_earlier_names() -> None:
    def brightness(pixels: Any) -> dict[str, float]:
        return {"mean": float(pixels.mean())}

    with pytest.warns(DeprecationWarning, match="now"):
        operation = engine.from_function(
            brightness, name="b", schema={"mean": float}, singular="view", quantities=["mean"]
        )
    assert (operation.object_name, operation.averaged_columns) == ("view", ("mean",))


def test_regions_of_an_image_are_read_by_their_earlier_names() -> None:
    image = Image(PIXELS[None], full_shape=(3, 4))
    with pytest.warns(DeprecationWarning, match="core_region"):
        assert image.write is None
    with pytest.warns(DeprecationWarning, match="full_shape"):
        assert image.whole == (3, 4)
