"""The notebooks run from a clean kernel, show what they promise, and leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any, kind: str) -> list[str]:
    """Return all outputs of a kind, e.g. ``text/plain``."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    found = (output.get("data", {}) for cell in cells for output in cell.outputs)
    return [str(data[kind]) for data in found if kind in data]


def execute(name: str, folder: Path) -> Any:
    """Execute a notebook in folders of its own, which it leaves as empty as they were."""
    for part in ("cwd", "tmp", "home"):
        (folder / part).mkdir()
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    notebook = nbformat.read(REPOSITORY / "notebooks" / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in own.items():
            patch.setenv(variable, value)
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.delenv("COHORT_SUNNYBROOK", raising=False)
        where = {"metadata": {"path": str(folder / "cwd")}}
        nbclient.NotebookClient(notebook, timeout=240, resources=where).execute()
    left = [p for part in ("cwd", "tmp") for p in (folder / part).rglob("*") if p.is_file()]
    assert left == []
    return notebook


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own: event loops, sockets
def test_circles_runs_from_a_clean_kernel(tmp_path: Path) -> None:
    notebook = execute("circles.ipynb", tmp_path)
    texts = outputs(notebook, "text/plain")
    assert len(outputs(notebook, "image/png")) == 4
    assert "{'new': 16}" in texts
    assert "{'done': 16}" in texts
    assert any("circles: 16 images" in text for text in texts), "progress is shown by default"
    assert any("2 workers" in html for html in outputs(notebook, "text/html")), "the cluster"


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own: event loops, sockets
def test_nuclei_runs_from_a_clean_kernel(tmp_path: Path) -> None:
    """What is found is near what was drawn, of each subject."""
    notebook = execute("nuclei.ipynb", tmp_path)
    assert len(outputs(notebook, "image/png")) == 3
    (shown,) = [t for t in outputs(notebook, "text/plain") if "nuclei drawn" in t]
    rows = [line.split() for line in shown.splitlines() if line.startswith("s") and "." in line]
    assert len(rows) == 6
    for _, *numbers in rows:
        drawn, found, with_marker, found_with_marker = map(float, numbers)
        assert abs(found - drawn) < 0.02 * drawn
        assert abs(found_with_marker - with_marker) < 3


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own: event loops, sockets
def test_cardiac_runs_from_a_clean_kernel(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    notebook = execute("cardiac.ipynb", tmp_path)
    texts = outputs(notebook, "text/plain")
    assert len(outputs(notebook, "image/png")) == 5
    assert "{'images': 36, 'contours': 72, 'left over': 0}" in texts
    assert "{'epoch': 0, 'next batch': 3, 'as if not stopped': True}" in texts
    assert any("duplicate" in text and "36" in text for text in texts), "what was swapped is found"


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_is_borrowed_scaled_and_given_back(tmp_path: Path) -> None:
    """Here of this machine; ``make deploy-test`` executes it on Kubernetes."""
    notebook = execute("cluster.ipynb", tmp_path)
    shown = [text for text in outputs(notebook, "text/plain") if text.startswith("<Cluster")]
    assert ["1 worker" in shown[0], "2 workers" in shown[1], "closed" in shown[2]] == [True] * 3
    assert "({'done': 24}, {'done': 24})" in outputs(notebook, "text/plain")


@pytest.mark.filterwarnings("ignore")
def test_marrow_runs_from_a_clean_kernel(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")
    notebook = execute("marrow.ipynb", tmp_path)
    texts = outputs(notebook, "text/plain")
    assert len(outputs(notebook, "image/png")) == 3
    assert "{'done': 3}" in texts
    assert any("segment: 3 images" in text for text in texts)
    assert any("bone_density" in text for text in texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_is_stored_was_run_in_order(path: Path) -> None:
    """A reader on a code host sees outputs; they are small, and of no machine."""
    text = path.read_text()
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert kinds
    assert set(kinds) <= {"display_data", "execute_result"}, "no error, and nothing printed"
    assert len(text) < 500_000
    assert not any(word in text for word in ("/tmp", "/home", "/root", "/Users"))
