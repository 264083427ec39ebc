"""Datasets for learning: masks, items, batches, sampling order, seeds."""
