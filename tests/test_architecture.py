"""What holds for the code as a whole: layers, errors, sizes, docstrings, what an import costs."""

from __future__ import annotations

import ast
import importlib
import io
import itertools
import pickle
import pkgutil
import re
import subprocess
import sys
import tokenize
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp
import pytest

import engine
import jobs
from engine.errors import EngineError

TOP = Path(__file__).resolve().parents[1]
FILES = sorted(path for name in ("engine", "jobs") for path in (TOP / name).rglob("*.py"))

MOST_LINES = 400
"""House rule: about 300 lines a file, seldom over 400."""

MOST_FILES = 15
"""House rule: modules of a folder, beside its ``__init__``."""

OBLIQUE = re.compile(r"(What|Which|Who|Whose|Whom|How|Where|Whether|When|Why)\b")
"""First words of docstrings that name a thing by a clause instead of a noun."""

DIALECT = re.compile(r"\b(nobody|somebody|whoever|anew|aside|told)\b", re.IGNORECASE)
"""Words that the field has other terms for."""

CODE = re.compile(r"^ *(?:\w+|(?:>>>|\.\.\.) .*)$", re.MULTILINE)
"""Lines of docstrings that are not prose: names of parameters, and examples."""

NETWORKS = (
    "engine.kernels.networks.",
    "engine.learning.datasets.transforms",
    "engine.learning.datasets.torch",
    "engine.learning.training.",
)
"""Modules that need torch, which may be absent."""

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "AlignmentError": (3, "a grid of 2 shards"),
    "AlreadyExists": ("pixels/x",),
    "BrokenFormat": ("plain", "plain:FORMAT", "ImportError: no module x"),
    "BrokenOperation": ("sharpness", "sharpness:Sharpness", "ImportError: no module x"),
    "AnnotationError": ("masks/bone/a.png", "the mask marks nothing"),
    "CardError": ("model/card.json", "no JSON object"),
    "ColumnsChanged": ("results/spots/v1", "y (double)", "x (double)"),
    "ConditionError": ("subjet == 's1'", 0, 6, "there is no column 'subjet'", "Columns: subject"),
    "ConfigError": ("cohort.toml, limits", "must be positive"),
    "Conflict": ("cohort.toml",),
    "CorruptStore": ("pixels/x", "its bytes do not match"),
    "EngineError": ("anything",),
    "FunctionNotFound": ("contrast", "lab.texture:contrast", "No module named lab"),
    "FormatTooNew": ("/c", 9, 1),
    "ImageFailed": ("no_tissue",),
    "Incomplete": (1, 12),
    "Interrupted": (3, 4),
    "MissingExtra": ("pydicom", "dicom", "to read DICOM"),
    "MissingObject": ("pixels/x",),
    "MissingPackage": ("x",),
    "NotAFile": ("/etc/key",),
    "NoCertificate": ("tls://127.0.0.1:1",),
    "NoCohort": ("/c",),
    "NoConditionalPuts": ("s3://bucket/c", "If-None-Match"),
    "NoKubernetes": ("Invalid kube-config file",),
    "NoMask": ("slides/a.png", "no mask of its path is below masks"),
    "NoMemoryLeft": ((3, 512, 512),),
    "NoOperation": ("circels", ("circles",)),
    "NoSuchChannel": ("CD3", ("DAPI",)),
    "NoUpstream": ("measure", "objects", "nuclei", "of which there are no results"),
    "NoPseudonymKey": ("it is too short",),
    "NoPackage": ("torch", "segment"),
    "NoSource": ("/nights",),
    "NoTable": ("circels", ("circles",)),
    "NoWorkerForResource": ("gpu", 1.0, 4),
    "NoWorkers": (30.0,),
    "NotPortable": ("spots", "cannot pickle a lock"),
    "NothingFound": ("No image fits", "Check --where"),
    "OtherPseudonymKey": ("/c",),
    "ParameterError": ("radius_px", (5, 1), "growing"),
    "RootEmpty": ("/nights",),
    "RootGone": ("nights", "/nights"),
    "RootLost": ("nights", "/nights", 50),
    "SchedulerLost": (3, 4),
    "StoreError": ("/c",),
    "StoreFailed": ("/c", "Input/output error, EIO"),
    "TooManyFiles": ("/c", 1024),
    "SchedulerShut": ("tls://cohort-1a2b-scheduler.cohort.svc:8786",),
    "SchedulerUnreachable": ("tcp://127.0.0.1:1",),
    "SourceUnreachable": ("HTTPError",),
    "SourceUnreadable": ("truncated", "ends early"),
    "CommitConflict": ("catalog/images",),
    "StoreFull": ("/c",),
    "StoreReadOnly": ("/c",),
    "StoreUnreachable": ("s3://bucket/c", "there is no such bucket"),
    "TaskFailed": ("KeyError",),
    "TilingError": ("a tile is empty",),
    "UsageError": ("Give one or the other",),
    "NoPrediction": ("in/a.png", "other_channels"),
    "UnguardedScript": (),
    "VersionMismatch": ("tcp://127.0.0.1:1", "dask is 1 on the scheduler, 2 here"),
    "WeightsRefused": ("weights.pt", "their SHA-256 is another"),
    "WorkerKeepsDying": (3,),
    "WorkerUnfit": ("no model there.",),
    "CheckpointUnreadable": ("/t/checkpoint.pt", "EOFError"),
    "EvaluationLost": ("a#1", 3, None),
    "NoEvaluation": ("/e",),
    "NothingShared": ("no image is in both",),
    "OtherTraining": ("/t", "settings"),
    "TrainingBusy": ("/t",),
    "TrainingDiverged": ("/t", 7),
    "TrainingLost": ("/t", 7),
    "TrainingStopped": ("/t", 7, 9),
    "WorkersEnded": (),
    "WrongState": ("seed differ",),
    "KubernetesFailed": ("read the pod template cohort-worker", 403, "forbidden"),
    "NotRemoved": ("night", "The runner", 60.0),
    "OperatorSilent": ("runner of DaskJob night", 120.0),
    "PartNotStarted": ("worker", "cohort-1a2b", 20.0, "ImagePullBackOff"),
    "RunnerLost": ("night", "its pod was deleted"),
    "RunnerNotStarted": ("night", 1200.0, "ImagePullBackOff"),
    "Stopped": ("SIGTERM",),
}
"""Arguments with which each error can be made; a new error needs a row."""


def modules() -> Iterator[str]:
    """Yield the names of all modules."""
    for package in (engine, jobs):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield found.name


def all_errors() -> list[type[EngineError]]:
    """Return our errors, by name, once every module that may hold some is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules():
            if not name.startswith(NETWORKS) or find_spec("torch"):
                importlib.import_module(name)
    found: list[type[EngineError]] = [EngineError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub not in found]
    ours = [kind for kind in found if kind.__module__.split(".")[0] in ("engine", "jobs")]
    return sorted(ours, key=lambda kind: kind.__name__)


def imported(statement: str) -> set[str]:
    """Return the names of the modules that a fresh process has after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_layers_hold() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_error_travels_with_its_text() -> None:
    kinds = all_errors()
    names = [kind.__name__ for kind in kinds]
    assert len(set(names)) == len(names)
    assert set(names) == set(ARGUMENTS), "ARGUMENTS needs a row for each error, and no other"
    for kind in kinds:
        error = kind(*ARGUMENTS[kind.__name__])
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert again.args == error.args == ARGUMENTS[kind.__name__]
        assert str(again) == str(error) != ""
        assert again.exit_code in (1, 2, 130)


def test_importing_the_engine_imports_no_torch() -> None:
    assert not {"torch", "monai", "onnxruntime"} & imported("import engine")


def test_no_import_runs_in_a_circle() -> None:
    """Lazy imports and those for type checkers count too."""
    graph = grimp.build_graph("engine", "jobs", cache_dir=None)
    direct = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    # The names that a package offers are imported from below it: `import engine`.
    TopologicalSorter({a: b for a, b in direct.items() if a != "engine"}).prepare()
    parts = {name: ".".join(name.split(".")[:2]) for name in graph.modules}
    packages: dict[str, set[str]] = defaultdict(set)
    for name, found in direct.items():
        if name.startswith("engine."):
            packages[parts[name]] |= {parts[one] for one in found} - {parts[name]}
    TopologicalSorter(packages).prepare()


def test_a_folder_can_be_read_at_a_glance() -> None:
    files = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {str(k): n for k, n in files.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_prose_is_plain(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documents = [
        ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)
    ]
    parts = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef))]
    documents += [
        node.value.value
        for node in itertools.chain.from_iterable(part.body for part in parts)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    assert [one for one in documents if OBLIQUE.match(one)] == []
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline)
                if t.type == tokenize.COMMENT]  # fmt: skip
    prose = [CODE.sub("", one) for one in [*documents, *comments]]
    assert [one for one in prose if DIALECT.search(one)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_a_file_keeps_to_the_house_rules(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "a file says what it is for"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    if path.is_relative_to(TOP / "engine"):
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                assert call.func.id != "print", f"line {call.lineno} prints"
