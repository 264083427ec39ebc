"""The Python interface of a cohort: one class, and the parts that it delegates to."""
