"""Locations of sources: folders, object stores, DICOMweb services."""
