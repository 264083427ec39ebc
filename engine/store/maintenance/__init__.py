"""Maintenance: verify, repair, removal of unreferenced files."""
