"""Faults 18 and 19: nothing that names a patient is written, shown or logged; keys and roots."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import Client
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import engine
from engine.execution.task_pool import TaskFailed, TaskPool
from engine.privacy import KEY, KEY_FILE, NoPseudonymKey, OtherPseudonymKey, Pseudonyms, read_key
from jobs.commands import core as commands
from jobs.options import ClusterArguments
from jobs.output import Output
from tests.support.dicom import KEY as SECRET
from tests.support.dicom import make, put_dicom, put_series, uid
from tests.support.images import catalog, grey, put, states

CANARY = "CANARY"
TEXTS = {"LO", "SH", "PN", "LT", "ST", "UT", "UC", "AE", "CS", "AS", "UR", "DA", "TM", "DT"}
NUMBERS = {"DS", "IS"}
KEPT = {"SOPClassUID", "SOPInstanceUID", "PhotometricInterpretation", "SpecificCharacterSet"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


def sing(ds: Dataset, *, numbers: bool) -> Dataset:
    """Write the canary into every element of text that the dictionary knows, and private ones."""
    kinds = TEXTS | (NUMBERS if numbers else set())
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr in kinds and group > 2 and keyword not in KEPT and keyword not in _pixel_module():
            ds.add_new(tag, "LO" if vr in NUMBERS | {"DA", "TM", "DT"} else vr, f"{CANARY}{tag:X}")
    ds.SpecificCharacterSet = "ISO_IR 100"
    for name in ("PatientName", "PatientID", "InstitutionName"):
        setattr(ds, name, f"{CANARY}^Jane")
    ds.private_block(0x0029, f"{CANARY} private", create=True).add_new(1, "LT", f"{CANARY} note")
    inner = Dataset()
    inner.PatientName, inner.CodeMeaning = f"{CANARY}^Inner", f"{CANARY} code"
    ds.RequestAttributesSequence = Sequence([inner])
    return ds


def _pixel_module() -> set[str]:
    return {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "NumberOfFrames"}


def write_all(folder: Path) -> None:
    """Write files that carry the canary everywhere, some of which fail."""
    for n in range(3):
        ds = make(
            np.random.default_rng(n).integers(0, 99, (40, 40)).astype(np.uint8),
            InstanceNumber=n,
            ImagePositionPatient=[0, 0, n],
            SOPInstanceUID=f"1.2.{CANARY}.{n}",
            SeriesInstanceUID=f"1.2.{CANARY}",
        )
        place = folder / f"{CANARY}^Jane" / f"{CANARY}-{n}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        sing(ds, numbers=n > 0).save_as(place, enforce_file_format=True)
        place.write_bytes(place.read_bytes().replace(b"ISO_IR 100", f"{CANARY}_SET".encode()))
    whole = place.read_bytes()
    (place.parent / f"{CANARY}-cut.dcm").write_bytes(whole[:-900])
    (place.parent / f"{CANARY}-empty.dcm").write_bytes(b"")
    (place.parent / f"{CANARY}-text.dcm").write_text(f"{CANARY} was here")
    garbled = bytearray(whole)
    garbled[200:600] = f"{CANARY:<40}".encode() * 10
    (place.parent / f"{CANARY}-garbled.dcm").write_bytes(garbled)
    (place.parent / f"{CANARY}-link.dcm").symlink_to("/etc/passwd")
    put(folder / f"{CANARY}^Jane" / f"{CANARY}.png", grey(5))  # an export beside it


PROGRAM = """
import json, sys, urllib.error, urllib.request
import engine
if __name__ == "__main__":
    with engine.cluster("local", workers=1) as cluster:
        client = cluster.client
        cohort = engine.create(sys.argv[1])
        report = cohort.ingest(sys.argv[2], client=client)
        run = cohort.run(engine.circles(radius_px=(5, 12)), client=client)
        print(json.dumps([report.as_json(), run.as_json()]))
        print(json.dumps(cohort.status().as_json(), default=str))
        print(client.get_worker_logs(), client.get_scheduler_logs())
        print(client.run_on_scheduler(lambda dask_scheduler: [
            list(dask_scheduler.tasks), str(list(dask_scheduler.transition_log)),
            str([t.run_spec for t in dask_scheduler.tasks.values()]),
        ]))
        link = client.dashboard_link.rsplit("/", 1)[0]
        for page in ("json/counts.json", "json/identity.json", "info/main/workers.html",
                     "info/main/logs.html", "info/main/exceptions.html", "metrics"):
            try:
                with urllib.request.urlopen(f"{link}/{page}") as answer:
                    print(page, answer.read().decode())
            except urllib.error.HTTPError as error:  # identity fails once there were events
                print("no page", page, error.code)
"""


def all_text(cohort: Path) -> str:
    """Return all that a cohort's files say, Parquet unpacked, with their names."""
    found = []
    for path in sorted(cohort.rglob("*")):
        found.append(str(path.relative_to(cohort)))
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()))
            found.append(str(pq.read_schema(path).metadata))
        if path.is_file():
            found.append(path.read_bytes().decode("latin-1"))
    return "\n".join(found)


def test_nothing_that_names_a_patient_gets_out(tmp_path: Path) -> None:
    write_all(tmp_path / "data")
    environment = {**os.environ, KEY: SECRET, "DASK_LOGGING__DISTRIBUTED": "debug"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "cohort"), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report, run = json.loads(done.stdout.splitlines()[0])
    assert report["new"] == 4, report  # three slices, and the export beside them
    assert report["failed"] == 5, report
    assert run["failed"] == 0
    said = done.stdout + done.stderr + all_text(tmp_path / "cohort")
    assert "worker" in said
    assert "\njson/counts.json" in said
    for word in (CANARY, "Jane", SECRET, "1.2.840.113", "passwd"):
        at = said.lower().find(word.lower())
        assert at < 0, (word, said[max(at - 300, 0) : at + 100])
    # The key finds it again.
    os.environ[KEY] = SECRET
    cohort = engine.open(tmp_path / "cohort")
    rows = cohort.reveal(tmp_path / "data")
    assert {Path(row["path"]).name for row in rows if row["state"] == "failed"} == {
        f"{CANARY}-{name}.dcm" for name in ("cut", "empty", "text", "garbled", "link")
    }


def test_odd_identifiers_are_hashed(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    folder = tmp_path / "data"
    names = ["../../x", "/etc/x", "a\0b", "x" * 300, "Müller", " padded "]
    for n, name in enumerate(names):
        put_dicom(folder / str(n), grey(n), PatientID=name, SeriesInstanceUID=uid(n),
                  SOPInstanceUID=uid("i", n), StudyInstanceUID=uid("study", n))  # fmt: skip
    latin = make(grey(80), PatientID="Müller", SeriesInstanceUID=uid(9), SOPInstanceUID=uid("i", 9))
    latin.SpecificCharacterSet = "ISO_IR 100"
    latin.save_as(folder / "latin", enforce_file_format=True)
    put_dicom(folder / "plain", grey(81), PatientID="padded", SeriesInstanceUID=uid(8),
              SOPInstanceUID=uid("i", 8))  # fmt: skip
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "cohort")}
    assert cohort.ingest(folder, client=client).failed == 0
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "cohort")} == before
    subjects = {Path(r["path"]).name: r["subject"] for r in cohort.reveal(folder)}
    assert len(set(subjects.values())) == 6
    assert subjects["4"] == subjects["latin"]  # one patient, in two character sets
    assert subjects["5"] == subjects["plain"]
    assert all(len(name) == 20 and int(name, 16) >= 0 for name in subjects.values())


# keys


def test_without_a_key_nothing_is_taken(
    cohort: engine.Cohort, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_series(tmp_path / "data", [0.0, 1.0])
    monkeypatch.delenv(KEY)
    with pytest.raises(NoPseudonymKey, match=r"secrets\.token_hex"):
        cohort.ingest(tmp_path / "data", client=client)
    assert cohort.config.roots == {}
    monkeypatch.setenv(KEY, SECRET)
    cohort.ingest(tmp_path / "data", client=client)
    patients = {row["fields"][1][1] for row in catalog(cohort).values()}
    monkeypatch.setenv(KEY, SECRET[::-1])
    with pytest.raises(OtherPseudonymKey):
        cohort.ingest(client=client)
    monkeypatch.delenv(KEY)
    (tmp_path / "key").write_text(SECRET + "\n")
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key"))
    for path in put_series(tmp_path / "more", [2.0, 3.0], SeriesInstanceUID=uid("later")):
        shutil.copy(path, tmp_path / "data" / f"late-{path.name}")
    assert cohort.ingest(client=client).new == 2
    assert {row["fields"][1][1] for row in catalog(cohort).values()} == patients


def test_a_key_is_long_outside_of_the_cohort_and_never_pickled(tmp_path: Path) -> None:
    inside = tmp_path / "cohort" / "key"
    inside.parent.mkdir()
    inside.write_text(SECRET)
    with pytest.raises(NoPseudonymKey, match="is inside the cohort"):
        read_key({KEY_FILE: str(inside)}, outside=str(tmp_path / "cohort"))
    with pytest.raises(NoPseudonymKey, match="can't be read"):
        read_key({KEY_FILE: str(tmp_path / "none")})
    with pytest.raises(NoPseudonymKey, match="16 are needed"):
        read_key({KEY: "short"})
    names = read_key({KEY: SECRET})
    with pytest.raises(TypeError):
        pickle.dumps(names)
    assert SECRET not in repr(names) + names.check
    assert names.of("patient", "1") != Pseudonyms(b"another key of length").of("patient", "1")


# roots


def test_a_root_with_any_dicom_is_confidential_as_a_whole(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    folder = tmp_path / "Doe^Jane"
    put(folder / "s1" / "export.png", grey(1))
    put_series(folder / "s1" / "series", [0.0, 1.0])
    cohort.ingest(folder, client=client)
    assert list(cohort.config.roots) == ["dicom"]
    assert cohort.config.roots["dicom"].confidential
    assert all("export" not in name for name in states(cohort))
    assert [r["state"] for r in cohort.reveal(folder / "s1" / "export.png")] == ["ready"]
    (folder / "s1" / "export.png").unlink()
    assert cohort.ingest(folder / "s1", client=client).orphaned == 1
    assert cohort.reveal(folder / "s1" / "series")[0]["state"] == "ready"


def test_dicom_that_comes_to_another_root_is_withheld(
    cohort: engine.Cohort,
    tmp_path: Path,
    client: Client,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tmp_path / "data" / "a.png", grey(1))
    cohort.ingest(tmp_path / "data", client=client)
    put_dicom(tmp_path / "data" / "CANARY.dcm", grey(2))
    put_dicom(tmp_path / "data" / "CANARY.png", grey(3))  # under another suffix
    report = cohort.ingest(client=client)
    assert (report.withheld, report.new, report.failed) == (2, 0, 0)
    assert CANARY not in all_text(Path(cohort.store.url))
    monkeypatch.setattr(commands, "open_client", lambda *_: nullcontext(client))
    code = commands.ingest(Output(False), cohort.store.url, cluster=ClusterArguments())
    assert code == 3
    assert "2 DICOM files lie in a root that is not confidential" in capfd.readouterr().err
    toml = Path(cohort.store.url) / "cohort.toml"
    toml.write_text(toml.read_text() + "confidential = true\n")
    report = cohort.ingest(client=client)
    assert (report.new, report.duplicates, report.orphaned) == (3, 1, 1)


def fail_at(name: str) -> None:
    """Fail as a fault of ours does."""
    raise KeyError(len(name))


def test_a_failed_task_is_logged_without_its_arguments(client: Client) -> None:
    names = [f"{CANARY}/one.dcm"]
    window = TaskPool(client, fail_at, lambda name: (name,), label="fail")
    with pytest.raises(TaskFailed):
        list(window.run(lambda: names.pop() if names else None))
    logs = str(client.get_worker_logs())
    assert "Compute Failed" in logs
    assert CANARY not in logs
