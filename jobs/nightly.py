"""Run ``cohort nightly`` as a module: ``python -m jobs.nightly COHORT``."""

from __future__ import annotations

import sys

from jobs.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["nightly"]
    main()
