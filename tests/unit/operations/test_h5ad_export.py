"""AnnData of objects, read by anndata; and the catalog as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from numpy.typing import NDArray
from skimage.measure import label
from typer.testing import CliRunner

import engine
from engine.errors import NothingFound
from engine.tables.h5ad import write_h5ad
from jobs.cli import app
from tests.support.images import LAYOUT, night

pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")

anndata = pytest.importorskip("anndata")


def spots(image: NDArray[Any]) -> dict[str, Any]:
    numbers = label(image[0] > 60)
    count = int(numbers.max())
    named = ["left" if n % 2 else "right" for n in range(count)]
    rank = [None if n == 0 else float(n) for n in range(count)]
    return {"labels": numbers, "side": named, "rank": rank}


@pytest.fixture(scope="module")
def measured(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[engine.Cohort, str]:
    place = tmp_path_factory.mktemp("h5ad")
    night(place / "data", 4)
    (place / "data/d1/s9/e1").mkdir(parents=True)
    (place / "data/d1/s9/e1/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    made = engine.create(place / "cohort", layout=LAYOUT)
    made.ingest(place / "data", client=client)
    subjects = {*made.images().frame["subject"]}
    (place / "subjects.csv").write_text(
        "subject,arm,age,area_px,weight/kg,_index\n"
        + "".join(f"{one},a{n},{40 + n},7,8.5,9\n" for n, one in enumerate(subjects))
    )
    toml = place / "cohort/cohort.toml"
    toml.write_text(f'subjects = "{place}/subjects.csv"\n{toml.read_text()}')
    report = made.map(
        spots, name="spots", labels="instances", object_name="spot", client=client,
        schema={"side": str, "rank": float},
    )  # fmt: skip
    assert report.failed == 0
    return made, report.tables[0]


def test_anndata_has_what_the_table_has(
    measured: tuple[engine.Cohort, str], tmp_path: Path
) -> None:
    made, table = measured
    rows = made.table(table)
    assert len(rows) > 4
    write_h5ad(made.store, table, made.arrow_table(table), tmp_path / "a.h5ad")
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert found.shape[0] == len(rows)
    assert {"area_px", "rank"} <= {*found.var_names}
    of_subject = {"age", "area_px_of_subject"}
    assert not {"spot", "x", "y", "orphaned", *of_subject} & {*found.var_names}
    for name in found.var_names:
        np.testing.assert_array_equal(found[:, name].X[:, 0], rows[name].to_numpy(float))
    np.testing.assert_array_equal(found.obsm["spatial"], rows[["x", "y"]])
    for name in ("subject", "arm", "side", "source", "image_id"):
        assert [*found.obs[name].astype(str)] == [*rows[name].astype(str)]
    assert {*found.obs["weight_kg"]} == {8.5}
    assert {*found.obs["_index_"]} == {9}
    for name in ("spot", "touches_border", *of_subject):
        assert [*found.obs[name]] == [*rows[name]]
    assert found.obs_names.is_unique
    assert found.obs_names[0] == f"{rows['image_id'][0]}-{rows['spot'][0]}"
    assert found.uns["cohort"]["operation"] == "spots"
    assert table.endswith(found.uns["cohort"]["key"][:8])


def test_tables_without_objects_are_refused(measured: tuple[engine.Cohort, str]) -> None:
    made, table = measured
    by_image = table.replace("spots@", "spots_by_image@")
    with pytest.raises(NothingFound, match="has no objects"):
        write_h5ad(made.store, by_image, made.arrow_table(by_image), Path("never.h5ad"))


def export(*words: Any) -> None:
    done = CliRunner().invoke(app, ["export", *map(str, words)])
    assert done.exit_code == 0, done.output


def test_an_export_by_its_suffix(measured: tuple[engine.Cohort, str], tmp_path: Path) -> None:
    made, table = measured
    export(made.store.url, table, tmp_path / "a.h5ad", "--where", "spot == 1")
    assert anndata.read_h5ad(tmp_path / "a.h5ad").n_obs == (made.table(table)["spot"] == 1).sum()


def test_the_catalog_is_exported_with_its_failures(
    measured: tuple[engine.Cohort, str], tmp_path: Path
) -> None:
    made, _ = measured
    export(made.store.url, "images", tmp_path / "catalog.csv")
    found = pd.read_csv(tmp_path / "catalog.csv")
    assert len(found) == 5
    assert found["source"].str.endswith("broken.png").sum() == 1
    assert {"date", "subject", "experiment", "name", "reason"} <= {*found.columns}
    export(made.store.url, "images", tmp_path / "failed.parquet", "--where", "reason is not null")
    assert len(pd.read_parquet(tmp_path / "failed.parquet")) == 1
    for text in found["header"].dropna():
        json.loads(text)


def test_no_rows_are_no_observations(measured: tuple[engine.Cohort, str], tmp_path: Path) -> None:
    made, table = measured
    export(made.store.url, table, tmp_path / "a.h5ad", "--where", "area_px < 0")
    found = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert found.n_obs == 0
    assert "area_px" in found.var_names
