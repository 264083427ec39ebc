"""Conditions: ``--where``, parsed by ourselves into a small tree. Nothing is ever executed.

``tree`` what a condition is, and how one that is none is refused; ``parsing`` from text to the
tree; ``compiling`` from the tree to an expression of pyarrow, against the columns there are.
See docs/reference/conditions.md for the language.
"""
