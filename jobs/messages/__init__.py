"""Sentences of reports on the terminal."""
