"""Python interface of a cohort: one class, assembled from mixins."""
