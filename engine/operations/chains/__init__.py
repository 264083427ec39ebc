"""Operations that read the results of others: binding to a cohort, and keys."""
