"""Filter conditions of ``--where``: own parser and syntax tree, no execution of user code.

``tree`` defines the syntax tree and the error; ``parsing`` parses text to a tree; ``compiling``
turns a tree into a pyarrow expression for given columns. The language is described in
docs/reference/conditions.md.
"""
