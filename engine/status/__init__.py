"""Status of a cohort: coverage of each key, failures, spacings."""
