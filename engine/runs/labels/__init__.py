"""Label images of runs: parts written by workers, object numbers across blocks."""
