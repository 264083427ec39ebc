"""Foreign text as terminals and pages show it."""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that move the cursor, reorder or hide text, or are not characters."""

_JOINERS = "\u200c\u200d"
"""Joiners: names in Persian, Hindi and emoji need them, and they do not reorder text."""


def visible(text: str, keep: str = "") -> str:
    r"""Escape each character of a text that has an effect instead of a glyph.

    These are control characters (terminals take ESC for a command), bidirectional marks (they
    reorder the text, CVE-2021-42574), other invisible ones, and unpaired surrogates (bytes of a
    file name that are not UTF-8).

    Parameters
    ----------
    keep
        Characters to keep, e.g. a newline.

    Examples
    --------
    >>> print(visible("a\x1b[31m \u202egnp.exe"), visible("Müller\n", keep="\n"), end="")
    a\x1b[31m \u202egnp.exe Müller
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in keep or c in _JOINERS or unicodedata.category(c) not in _HIDDEN else _escaped(c)
        for c in text
    )


def _escaped(character: str) -> str:
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    if short is not None:
        return short
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns_of(text: str) -> int:
    """Return the approximate width of a text in terminal columns (Unicode Standard Annex 11).

    Examples
    --------
    >>> columns_of("abc"), columns_of("\u5fc3\u81d3")
    (3, 4)
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
