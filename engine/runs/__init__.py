"""Runs: plan what to compute, compute units, publish results."""
