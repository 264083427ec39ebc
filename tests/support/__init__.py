"""Images, cohorts, operations, stores and processes that tests share."""
