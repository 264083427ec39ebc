"""The pseudonym key stays in the driver; a read that hangs is ended by SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import engine
from engine.privacy import KEY, KEY_FILE, key_withheld, read_key
from tests.distributed.processes import REPOSITORY, kill, wait_for, worker_pids
from tests.support.dicom import put_dicom
from tests.support.images import connect_quietly, grey, put

SECRET = "0123456789abcdef-a-key-of-tests"

BLOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int waits(const char *path) {
    const char *name = getenv("BLOCKED_FILE");
    if (!name || !path || strcmp(path, name)) return 0;
    int mark = creat(getenv("BLOCKED_MARK"), 0600);
    close(mark);
    for (;;) pause();
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    waits(path);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    waits(path);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}
"""
"""Makes opening one file hang, as on a share with a dead server (mounted `intr`)."""


def environments(pid: int) -> list[bytes]:
    """Return the initial environments of the processes below a process."""
    below = psutil.Process(pid).children(recursive=True)
    assert below
    found = []
    for process in below:
        try:
            found.append(Path(f"/proc/{process.pid}/environ").read_bytes())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return found


def test_no_process_that_is_started_has_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv("COHORT_TEST_ENVIRONMENT", "is inherited")
    me = os.getpid()
    others = {*worker_pids(me)}  # servers of other tests' fixtures
    with connect_quietly(where="local", workers=2, threads_per_worker=1) as client:
        assert os.environ[KEY] == SECRET, "who called keeps it"
        before = {*worker_pids(me)} - others
        assert len(before) >= 2
        for environment in environments(me):
            assert SECRET.encode() not in environment
        assert any(b"is inherited" in one for one in environments(me)), "it is the environment"
        kill(min(before))  # and the worker that a nanny starts in its place has none either
        wait_for(lambda: len({*worker_pids(me)} - others - before) == 1, "another worker")
        for environment in environments(me):
            assert SECRET.encode() not in environment
        inside = client.run(lambda: os.environ.get("COHORT_PSEUDONYM_KEY"))
        assert {*inside.values()} == {None}
        put_dicom(tmp_path / "scans/a.dcm", np.full((16, 16), 7, np.int16))
        report = engine.create(tmp_path / "c").ingest(tmp_path / "scans", client=client)
        assert report.new == 1, "the driver has it all the while"


def test_the_key_is_known_while_it_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    expected = read_key().check
    with key_withheld(), key_withheld():
        assert KEY not in os.environ
        assert read_key().check == expected
    assert os.environ[KEY] == SECRET
    with key_withheld():
        os.environ[KEY] = "another key of somebody else"
    assert os.environ[KEY] == "another key of somebody else"


@pytest.mark.parametrize("what", ["key", "subjects"])
def test_a_file_that_does_not_answer_ends_by_sigterm(tmp_path: Path, what: str) -> None:
    """By one SIGTERM, with a sentence and one line of JSON; before, no signal but SIGKILL did."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not here: no file can be made that does not answer")
    (tmp_path / "blocks.c").write_text(BLOCKS)
    library = tmp_path / "blocks.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "blocks.c", "-ldl"], check=True
    )
    cohort = engine.create(tmp_path / "cohort")
    place, blocked = Path(cohort.store.url), tmp_path / what
    if what == "key":
        blocked.write_text(SECRET)
        put_dicom(tmp_path / "in/a.dcm", np.full((16, 16), 7, np.int16))
        table = f'[roots.dicom]\npath = "{tmp_path}/in"\nconfidential = true\n'
    else:
        blocked.write_text("subject,dose\ns1,3\n")
        put(tmp_path / "in/d1/s1/e1/a.png", grey(1))
        table = f'[roots.in]\npath = "{tmp_path}/in"\n[operations.circles]\nradius_px = [3, 6]\n'
        (place / "cohort.toml").write_text(f'subjects = "{blocked}"\n{table}')
    if what == "key":
        (place / "cohort.toml").write_text(table)
    mark = tmp_path / "mark"
    environment = {
        **os.environ, KEY_FILE: str(tmp_path / "key"), "LD_PRELOAD": str(library),
        "BLOCKED_FILE": str(blocked), "BLOCKED_MARK": str(mark), "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    command = [sys.executable, "-m", "jobs.start", "nightly", str(place), "--workers", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            wait_for(lambda: mark.exists() or running.poll() is not None, "the read")
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "Stopping" in err
    (line,) = out.splitlines()
    assert "stopped" in json.loads(line)["message"]
