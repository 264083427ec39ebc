"""What pytest leaves out where an optional package is not installed, aloud."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = ["tests/*/conftest.py"]  # two would be one module
without_torch = find_spec("torch") is None
if without_torch:
    collect_ignore_glob += ["engine/kernels/networks/*.py", "engine/learning/training/*.py"]
    collect_ignore_glob += [
        "engine/learning/datasets/transforms.py",
        "engine/learning/datasets/torch.py",
    ]
    collect_ignore_glob.append("tests/support/training.py")


def pytest_report_header() -> str | None:
    """Say which tests can't run, and what to install for them."""
    if without_torch:
        return "torch is not installed: examples of networks are skipped (pip install .[segment])"
    return None
