"""Ctrl-C while the command is imported: it ends, whoever swallows exceptions there."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SWALLOWING = """
import os, signal, sys

class Swallows:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:  # as packages do that try what is there
                pass

sys.meta_path.insert(0, Swallows())
sys.argv = ["cohort", "status", "nowhere"]
from jobs.start import main
main()
"""


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_during_imports_ends_it_with_a_sentence(inherited: signal.Handlers) -> None:
    """Also where a shell started it in the background, and so with Ctrl-C ignored."""
    ended = subprocess.run(
        [sys.executable, "-c", SWALLOWING],
        capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "Stopped before anything was begun.\n"


def test_too_little_address_space_is_said() -> None:
    command = f"ulimit -v 1000000; exec {sys.executable} -m jobs.start --help"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ulimit -v" in done.stderr
    assert len(done.stderr.splitlines()) == 1
