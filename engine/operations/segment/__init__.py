"""Segmentation by networks, or by thresholds of marrow."""
