"""Unit tests for the registry of operations."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from engine.errors import ParameterError
from engine.operations import registry
from tests.support.operations import Probe, count_searches, install_below


def test_the_metadata_of_packages_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install_below(tmp_path / "first"))
    asked = count_searches(monkeypatch)
    assert [registry.find_operation("probe") for _ in range(9)] == [Probe] * 9
    assert "probe" in registry.operation_names()
    assert len(asked) == 1


def test_a_package_that_was_just_installed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    with pytest.raises(registry.NoOperation):
        registry.find_operation("probe")
    install_below(packages / "new").joinpath("operations_for_tests-1.0.dist-info").rename(
        packages / "operations_for_tests-1.0.dist-info"
    )
    assert registry.find_operation("probe") is Probe


@pytest.mark.parametrize("column", ["source", "orphaned", "image_id"])
def test_a_column_that_every_table_has_is_refused(column: str) -> None:
    """It would be lost: the table's own column replaces it."""
    with pytest.raises(ParameterError, match=f"object_schema of Clashing is '{column}'"):

        class Clashing(Probe):
            object_schema: ClassVar[pa.Schema] = pa.schema([(column, pa.float64())])
