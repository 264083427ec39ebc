"""Arguments that define a function's operation: wrong ones are refused where they are declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError, ParameterError, UsageError
from engine.operations.functions.creation import create_operation, version_of
from engine.operations.functions.function import from_function
from engine.operations.registry import BrokenOperation

WRONG: list[tuple[str, Any]] = [
    *(("schema", value) for value in (
        "float", 5, ["share"], {}, {"share": "timedelta64[ns]"}, {"share": "datetime64[s]"},
        {"share": "float", "SHARE": "float"}, {"x": "float", "y": "str"},
    )),
    *(("upstream", value) for value in ("nuclei", 5, [5], [["nuclei"]], ["nuclei", "nuclei"])),
    *(("version", value) for value in ("two", 0, 2.5, True, [1])),
    *(("resources", value) for value in (
        5, "GPU", ["GPU"], {"GPU": "1"}, {"GPU": 0}, {"GPU": -1}, {"GPU": float("nan")},
        {"GPU": [1]}, {"": 1},
    )),
    *(("object_name", value) for value in (
        5, "", ["cell"], "share", "subject", "name", "orphaned", "image_id", "x", "_image",
    )),
    *(("averaged_columns", value) for value in ("share", 5, [5], [["share"]], ["share", "share"])),
    *(("halo_px", value) for value in ("8", -1, 2.5, True, [8])),
]  # fmt: skip


def share(image: NDArray[Any]) -> dict[str, float]:
    return {"share": float((image > 100).mean())}


def halves(image: NDArray[Any]) -> NDArray[Any]:
    return np.ones(image.shape[1:], int)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lab_of_shares.py").write_text("def share(image):\n    return {'share': 1.0}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("argument", "value"), WRONG)
def test_a_wrong_argument_is_refused_by_its_name(argument: str, value: Any, lab: Path) -> None:
    given = {"schema": {"share": "float"}, argument: value}
    with pytest.raises(ParameterError, match=argument if value != "share" else "share"):
        from_function(share, name="shares", **given)
    entry = {"function": "lab_of_shares:share", **given}
    with pytest.raises(ConfigError, match=r"cohort\.toml, operations\.shares: "):
        create_operation("shares", entry, {})


def test_numbers_of_instances_have_a_column_of_their_own() -> None:
    with pytest.raises(ParameterError, match="object_name is 'area_px'"):
        from_function(halves, name="halves", labels="instances", object_name="area_px")


def test_arguments_may_be_numbers_of_numpy_and_columns_points_in_time() -> None:
    operation = from_function(
        share, name="shares", schema={"share": float, "at": "datetime64[us]"},
        halo_px=np.int64(8), resources={"GPU": np.float32(0.5)}, averaged_columns=("share",),
    )  # fmt: skip
    assert operation.halo_px == 8
    assert operation.averaged_columns == ("share",)


def test_a_module_that_exits_is_named(lab: Path) -> None:
    (lab / "lab_that_exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(BrokenOperation, match=r"lab_that_exits:share.*SystemExit: 3"):
        create_operation("shares", {"function": "lab_that_exits:share"}, {})


def test_the_version_of_an_entry_is_checked() -> None:
    with pytest.raises(UsageError, match="version is 'two', but must be a whole number"):
        version_of("shares", {"function": "lab_of_shares:share", "version": "two"})
