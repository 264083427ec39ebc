"""Segmentation by networks, or by thresholds for bone marrow."""
