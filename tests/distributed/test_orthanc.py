"""Real PACS: Orthanc stores a synthetic cine, and returns it through DICOMweb with equal pixels.

Debian's Orthanc binds all addresses, so it and the ingest run in a network namespace with only
loopback. Skipped if Orthanc, its plugin or namespaces are missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.phantoms import CineOptions, write_cine
from engine.privacy import KEY
from tests.support.dicom import KEY as SECRET

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def missing() -> str | None:
    """Return the missing requirement of the test, or None."""
    if not Path(ORTHANC).exists() or not PLUGIN.exists():
        return "no Orthanc with DICOMweb (apt-get install orthanc orthanc-dicomweb)"
    done = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"],
                          capture_output=True, check=False)  # fmt: skip
    return "no network namespaces" if done.returncode else None


WHY = missing()

PROGRAM = """
import json, subprocess, sys, time, urllib.request
from pathlib import Path
import numpy as np, pydicom
import engine
from engine.privacy import read_key
from engine.store.catalog.tables import read_images

if __name__ == "__main__":
    orthanc, work = sys.argv[1:]
    cine, base = Path(work) / "cine", "http://127.0.0.1:8042"
    server = subprocess.Popen([orthanc, str(Path(work) / "orthanc.json")],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{base}/system", timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        files = sorted(cine.glob("dicoms/*/*.dcm"))
        for path in files:
            sent = urllib.request.Request(f"{base}/instances", path.read_bytes(), method="POST")
            urllib.request.urlopen(sent, timeout=30).read()
        with engine.cluster("local", workers=1, processes=False) as client:
            cohort = engine.create(Path(work) / "cohort")
            first = cohort.ingest(f"dicomweb+{base}/dicom-web", client=client)
            second = cohort.ingest(client=client)
            names, images = read_key(), cohort.images()
            equal = sum(
                np.array_equal(images.by_id(names.of("instance", ds.SOPInstanceUID)).values[0],
                               ds.pixel_array)
                for ds in map(pydicom.dcmread, files)
            )
            stacks = images.frame["stack"].nunique()
        told = [first.as_json(), second.as_json(), len(files), equal, stacks]
        print(json.dumps(told), flush=True)
    finally:
        server.terminate()
        server.wait()
"""


@pytest.mark.skipif(WHY is not None, reason=str(WHY))
def test_a_pacs_gives_back_what_it_was_given(tmp_path: Path) -> None:
    write_cine(tmp_path / "cine", CineOptions(patients=1, slices=2, phases=3, size_px=120,
                                              spacing_mm=1.6))  # fmt: skip
    settings = {
        "StorageDirectory": str(tmp_path / "store"),
        "IndexDirectory": str(tmp_path / "store"),
        "Plugins": [str(PLUGIN)],
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "HttpPort": 8042,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    inside = 'ip link set lo up && exec "$@"'
    python = [sys.executable, "-c", PROGRAM, ORTHANC, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", inside, "sh", *python],
        capture_output=True,
        text=True,
        env={**os.environ, KEY: SECRET},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, files, equal, stacks = json.loads(done.stdout.splitlines()[-1])
    assert (first["new"], first["failed"], files, equal, stacks) == (6, 0, 6, 6, 1)
    assert (second["new"], second["unchanged"]) == (0, 6)
