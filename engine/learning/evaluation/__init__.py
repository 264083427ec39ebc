"""Evaluation of models: scores, intervals, comparison, page."""
