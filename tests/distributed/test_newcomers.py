"""Common mistakes: each gets an error message with the next step, and an exit code."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import pytest

from engine.store.config import IDENTITY_FORM
from engine.store.sealed_json import seal
from tests.contracts.small_disks import mount, small_disk
from tests.distributed.conftest import Lab
from tests.distributed.processes import CLUSTER_SETTINGS, REPOSITORY, Zygote, wait_for
from tests.support.images import grey, put

NOBODY = "tcp://127.0.0.1:9"
"""Address without a listener (the discard port)."""

MISTAKES: dict[str, tuple[list[str], int, list[str]]] = {
    "wrong path": (["ingest", "NEW", "nowhere"], 2, ["No file or folder at nowhere", "Check"]),
    "empty folder": (["ingest", "NEW", "EMPTY"], 2, ["is empty", "Check the path"]),
    "no image in a folder": (["ingest", "NEW", "TEXTS"], 0, ["No image", "1 file", "PNG, TIFF"]),
    "no cohort": (["run", "nowhere"], 2, ["No cohort at", "cohort ingest"]),
    "no images": (["run", "BARE", "circles"], 2, ["no images yet", "cohort ingest"]),
    "patients without a key": (["ingest", "NEW", "SCANS"], 2, ["COHORT_PSEUDONYM_KEY"]),
    "declared of some": (
        ["run", "COHORT", "circles", "--declare", "--where", "name == 'a'"], 2, ["both --where"],
    ),
    "discs without room": (
        ["phantom", "discs", "NEW", "--size", "64"], 2, ["--discs is", "--radius-px", "64 x 64"],
    ),
    "heart without room": (
        ["phantom", "cine", "NEW", "--size", "64"], 2, ["--size is 64", "--spacing-mm"],
    ),
    "not a cohort": (["ingest", "TEXTS", "IMAGES"], 2, ["not empty", "new or empty folder"]),
    "nothing declared": (["run", "COHORT"], 2, ["declares no operation", "cohort run"]),
    "misspelt operation": (["run", "COHORT", "circels"], 2, ["circels", "circles"]),
    "misspelt parameter": (
        ["run", "COHORT", "circles", "--radius", "1:2"], 2, ["no parameter 'radius'", "radius_px"],
    ),
    "wrong parameter": (
        ["run", "COHORT", "circles", "--radius-px", "60:10"], 2, ["radius_px", "must be"],
    ),
    "parameters without operation": (
        ["run", "COHORT", "--radius-px", "1:2"], 2, ["Name the operation", "circles"],
    ),
    "wrong option": (
        ["run", "COHORT", "circles", "--memory-limit", "much"], 2, ["memory_limit", "4GiB"],
    ),
    "no permission to write": (["run", "READONLY", "circles"], 1, ["No permission", "Check"]),
    "no permission to make": (["ingest", "READONLY/new", "IMAGES"], 1, ["No permission", "Check"]),
    "port of another program": (
        ["run", "COHORT", "circles", "--scheduler", "OTHER"], 1, ["No Dask scheduler", "dask sche"],
    ),
    "scheduler absent": (
        ["run", "COHORT", "circles", "--scheduler", NOBODY], 1, ["No Dask scheduler", "dask sche"],
    ),
    "scheduler without scheme": (
        ["run", "COHORT", "circles", "--scheduler", "localhost:8786"], 2, ["tcp://localhost:8786"],
    ),
    "version mismatch": (
        ["run", "COHORT", "circles", "--scheduler", "OLD"], 1, ["dask is 2020.1.0 on", "Install"],
    ),
    "later format": (["status", "LATER"], 1, ["format 99", "Upgrade the engine"]),
    "misspelt column": (
        ["run", "COHORT", "circles", "--where", "subjet == 's1'"],
        2,
        ["no column 'subjet'", "did you mean 'subject'"],
    ),
    "no condition": (["plan", "COHORT", "circles", "--where", "subject = s1"], 2, ["Example"]),
    "condition that fits none": (
        ["run", "COHORT", "circles", "--where", "subject == 's9'"], 2, ["fits no image", "'s1'"],
    ),
    "model of another name": (
        ["plan", "COHORT", "segment", "--model", "marow"], 2, ["no model", "did you mean 'marrow'"],
    ),
    "no image selected": (
        ["run", "COHORT", "circles", "--limit", "0"], 2, ["--limit", "at least 1"],
    ),
    "misspelt table": (["export", "COHORT", "circle", "x.csv"], 2, ["circle", "cohort run"]),
    "format of a table": (["export", "COHORT", "circles", "x.xls"], 2, [".csv"]),
    "negative age": (["gc", "COHORT", "--older-than", "-1"], 2, ["--older-than", "hours"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, session_zygote: Zygote, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Prepare the objects of the mistakes: cohorts, folders, and two programs that listen."""
    folder = tmp_path_factory.mktemp("newcomers")
    put(folder / "images" / "d1/s1/e1" / "a.png", grey(1))
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "notes.txt").write_text("no image")
    made = session_zygote.run("ingest", folder / "cohort", folder / "images", threads=1)
    assert made.code == 0, made.err
    bare = session_zygote.run("ingest", folder / "bare", folder / "texts", threads=1)
    assert bare.code == 0, bare.err
    (folder / "scans").mkdir()
    (folder / "scans" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    later = {"format": 99, "cohort_id": "x", "created": "2040-01-01T00:00:00+00:00"}
    (folder / "later").mkdir()
    (folder / "later" / "cohort.json").write_bytes(seal(later, **IDENTITY_FORM))
    with (
        small_disk(folder / "disk", size="4m") as disk,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        shutil.copytree(folder / "cohort", disk, dirs_exist_ok=True)
        mount(disk, "remount,ro")
        old = start_old_scheduler(folder / "old", environment)
        yield {
            "NEW": str(folder / "new"),
            "EMPTY": str(folder / "empty"),
            "TEXTS": str(folder / "texts"),
            "BARE": str(folder / "bare"),
            "SCANS": str(folder / "scans"),
            "IMAGES": str(folder / "images"),
            "COHORT": str(folder / "cohort"),
            "READONLY": str(disk),
            "LATER": str(folder / "later"),
            "OTHER": f"tcp://127.0.0.1:{other.getsockname()[1]}",
            "OLD": json.loads((folder / "old" / "scheduler.json").read_text())["address"],
        }
        old.kill()
        old.wait(10)


def start_old_scheduler(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a scheduler of an old Dask version, according to its metadata."""
    metadata = folder / "dask-2020.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dask\nVersion: 2020.1.0\n")
    file = folder / "scheduler.json"
    scheduler = subprocess.Popen(
        [
            sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
            "--port", "0", "--no-dashboard", "--scheduler-file", str(file),
        ],
        cwd=folder,
        env={**environment, **CLUSTER_SETTINGS, "PYTHONPATH": f"{folder}:{REPOSITORY}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"), "the scheduler")
    return scheduler


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_sentence(mistake: str, places: dict[str, str], zygote: Zygote) -> None:
    arguments, code, words = MISTAKES[mistake]
    argv = list(arguments)
    for name, place in places.items():
        argv = [place + word.removeprefix(name) if word.startswith(name) else word for word in argv]
    ended = zygote.run(*argv, threads=None if "--scheduler" in argv or code else 1, connect_s=3.0)
    print(f"{ended.code}: {ended.err}")
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert "Warning" not in ended.err
    told = [line for line in ended.err.splitlines() if not line.startswith("Dashboard:")]
    if code == 2:
        assert "Dashboard:" not in ended.err, "refused before a cluster is started"
    if code:
        (sentence,) = told
        assert sentence == f"cohort: {ended.values['message']}"
        assert 40 < len(sentence) < 500
        assert not Path(places["NEW"]).exists(), "nothing is made"
    for word in words:
        assert word in ended.err, ended.err
    shutil.rmtree(places["NEW"], ignore_errors=True)


def test_what_does_not_match_the_layout_is_said(zygote: Zygote, tmp_path: Path) -> None:
    put(tmp_path / "in" / "d1/s1/e1" / "a.png", grey(1))
    iio.imwrite(tmp_path / "in" / "loose.png", grey(2))
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    ended = zygote.run("ingest", tmp_path / "c", tmp_path / "in", threads=1)
    assert ended.code == 3
    assert ended.values["unmatched"] == 1
    assert ended.values["unmatched_first"] == ["in/loose.png"]
    assert ended.values["failed_first"] == [{"source": "in/broken.png", "reason": "not_an_image"}]


def test_status_says_what_is_not_there(shared_lab: Lab, tmp_path: Path) -> None:
    with (shared_lab.place / "cohort.toml").open("r+") as toml:
        text = toml.read()
        toml.seek(0)
        toml.write(f'subjects = "people.csv"\n{text}\n[roots.away]\npath = "{tmp_path}/away"\n')
    ended = shared_lab.zygote.run("status", shared_lab.place)
    assert ended.code == 0, ended.err
    root, subjects = ended.values["absent"]
    assert f"{tmp_path}/away" in root
    assert "people.csv" in subjects
