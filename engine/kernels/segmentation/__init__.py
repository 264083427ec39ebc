"""Segmentation without networks: thresholds, tissue, connected components."""
