"""Contours: geometry, unions, plausibility checks, tracing, ventricular walls."""
