"""Storage of a cohort: local folders and object stores, atomic and durable writes."""
