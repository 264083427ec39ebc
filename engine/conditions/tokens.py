"""Tokens of a condition: names, numbers, quoted text, operators."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from engine.conditions.tree import EXAMPLE, ConditionError, Span, Value

MOST_CHARACTERS = 1_000_000
"""Maximum length of a condition: a list of forty thousand pseudonyms must fit."""

LEAST_INT, MOST_INT = -(2**63), 2**63 - 1
"""Range of integers in columns."""

KEYWORDS = frozenset({"and", "or", "not", "in", "is"})

CONSTANTS: dict[str, Value] = {
    "true": True, "false": False, "null": None, "True": True, "False": False, "None": None,
}  # fmt: skip
"""Names of constants, including the spellings of Python and pandas."""

SAME = {"&": "and", "|": "or"}
"""Signs that pandas treats as words, with the precedence of the words."""

Kind = Literal["name", "value", "word", "sign", "end"]

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<name>[^\W\d]\w*)
    |(?P<quoted>`[^`\n]*`)
    |(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<sign>==|!=|<=|>=|<(?!>)|>|[()\[\],&|~+-])""",
    re.VERBOSE,
)

_MORE, _DATE = re.compile(r"[\w.]+"), re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ESCAPE = re.compile(
    r"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))""", re.DOTALL
)
_PAIR, _HALF = re.compile("([\ud800-\udbff])([\udc00-\udfff])"), re.compile("[\ud800-\udfff]")
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t", "\n": None}

_HINTS = {
    "=": "write == to compare",
    "!": "write != or not",
    "<": "write !=",
    "@": "names of Python are not read",
    ".": "attributes and methods are not part of a condition; for several values write in [...]",
    "{": "write lists as [...]",
    ";": "there is one condition; join two by and",
    "#": "there are no comments",
    "*": "nothing is computed",
    "/": "nothing is computed",
    "%": "nothing is computed",
    "'": "the quote is not closed",
    '"': "the quote is not closed",
    "`": "the backtick is not closed",
    "\u00a0": "it is a space of another kind; write a plain one",
    **dict.fromkeys("\u2018\u2019\u201c\u201d\u201e\u201a\u00ab\u00bb", "write straight quotes"),
    **dict.fromkeys("\u2260\u2264\u2265", "write !=, <= or >="),
}
"""Hints for characters that a condition can't contain."""


@dataclass(frozen=True, slots=True)
class Token:
    """Token: ``text`` as written; ``value`` is the parsed name or constant."""

    kind: Kind
    text: str
    value: Value
    span: Span


def refuse(text: str, span: Span, problem: str, hint: str = EXAMPLE) -> NoReturn:
    """Raise a `ConditionError` about a span of the text."""
    raise ConditionError(text, span.start, span.end, problem, hint)


def split_tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a condition, and finally one of kind "end".

    Raises
    ------
    ConditionError
    """
    if len(text) > MOST_CHARACTERS:
        told = f"it has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}"
        refuse(text, Span(MOST_CHARACTERS, MOST_CHARACTERS + 1), told)
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            hint = _HINTS.get(text[at])
            told = f"it is not a condition: {text[at]!r} can't stand here"
            refuse(text, Span(at, at + 1), f"{told}; {hint}" if hint else told)
        span, at = Span(match.start(), match.end()), match.end()
        word = match[0]
        if match.lastgroup == "number":
            yield Token("value", word, _number(text, span), span)
        elif match.lastgroup == "text":
            yield Token("value", word, _unescaped(text, span), span)
        elif match.lastgroup == "quoted":
            yield Token("name", word, word[1:-1], span)
        elif match.lastgroup == "sign":
            same = SAME.get(word)
            yield Token("sign" if same is None else "word", same or word, None, span)
        elif match.lastgroup == "name" and word in CONSTANTS:
            yield Token("value", word, CONSTANTS[word], span)
        elif match.lastgroup == "name":
            yield Token("word" if word in KEYWORDS else "name", word, word, span)
    yield Token("end", "", None, Span(len(text), len(text) + 1))


def _number(text: str, span: Span) -> int | float:
    """Return the value of a number; refuse codes such as 007, which are text."""
    word = text[span.start : span.end]
    date = _DATE.match(text, span.start)
    if date is not None:
        refuse(text, Span(*date.span()), f"write a date in quotes: '{date[0]}'")
    more = _MORE.match(text, span.end)
    if more is not None:
        whole = word + more[0]
        told = f"it is not a condition: {whole} is not a number; write text in quotes: '{whole}'"
        refuse(text, Span(span.start, more.end()), told)
    if re.match(r"0[0-9]", word):
        refuse(text, span, f"a number does not begin with 0; write a code in quotes: '{word}'")
    if not word.isdigit():
        value = float(word)
        if math.isinf(value):
            refuse(text, span, "the number is too large")
        return value
    if len(word) > 19 or int(word) > MOST_INT + 1:  # one more, since a sign may follow
        refuse(text, span, f"whole numbers go from {LEAST_INT} to {MOST_INT}")
    return int(word)


def _unescaped(text: str, span: Span) -> str:
    """Return the value of quoted text, with the escapes of Python and JSON."""

    def meant(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        if digits is not None and int(digits, 16) < 0x110000:
            return chr(int(digits, 16))
        found = None if digits is not None else _ESCAPES.get(match[4])
        if found is None:
            place = Span(span.start + 1 + match.start(), span.start + 1 + match.end())
            refuse(text, place, f"{match[0]} is not an escape; write \\\\ for a backslash")
        return found

    value = _ESCAPE.sub(meant, text[span.start + 1 : span.end - 1])
    # JSON writes a character beyond 16 bits as a surrogate pair.
    value = _PAIR.sub(lambda pair: chr(0x10000 + _low(pair[1]) * 0x400 + _low(pair[2])), value)
    if _HALF.search(value):
        refuse(text, span, "the text is not valid Unicode")
    return value


def _low(half: str) -> int:
    """Return the ten bits of a surrogate (Unicode Standard, 3.9)."""
    return ord(half) & 0x3FF
