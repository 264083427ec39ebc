"""Drivers of training and evaluation: they submit tasks and commit results."""
