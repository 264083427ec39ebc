"""Faults: real drivers, workers and schedulers, killed for real."""
