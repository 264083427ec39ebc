"""Texts of reports for the terminal."""
