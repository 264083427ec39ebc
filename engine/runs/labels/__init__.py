"""Label images of runs: shards written by workers, and object numbers across blocks."""
