"""Parser of conditions: text to tree, by recursive descent.

::

    any         = all { ("or" | "|") all }
    all         = inverse { ("and" | "&") inverse }
    inverse     = "not" inverse | comparison
    comparison  = operand { ("==" | "!=" | "<" | "<=" | ">" | ">=") operand }
                | name ["not"] "in" list  |  name "is" ["not"] "null"
    operand     = name | value | list | "(" any ")" | "~" operand
    list        = "[" [value {"," value}] "]" | "(" value {"," value} ")"

Operators bind as in Python and pandas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from engine.conditions.tokens import LEAST_INT, MOST_INT, Token, refuse, split_tokens
from engine.conditions.tree import (
    All,
    Among,
    Any,
    Compare,
    Condition,
    Constant,
    IsNull,
    IsTrue,
    Listed,
    Name,
    Not,
    Span,
)

MOST_NESTED = 50
"""Maximum depth of nested parentheses and inversions."""

MOST_TERMS = 1_000
"""Maximum number of comparisons; for many values of one column use ``in [...]``."""

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")

Node = Condition | Name | Constant | Listed


def parse_condition(text: str) -> Condition:
    """Parse a condition to a tree; no part of it is executed.

    Parameters
    ----------
    text
        E.g. ``subject == 's1' and dose > 2``; see docs/reference/conditions.md.

    Raises
    ------
    ConditionError
        If it is invalid, too long, or nested too deeply.

    Examples
    --------
    >>> parse_condition("dose > 2").op
    '>'
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(split_tokens(text))
        self._at = 0
        self._terms = 0

    def parse(self) -> Condition:
        """Return the condition of the whole text."""
        found = self._condition(self._any(0))
        if self._next.kind != "end":
            self._unexpected()
        return found

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> Token | None:
        """Consume the next token if it is one of the given words or signs."""
        token = self._next
        if token.kind in ("word", "sign") and token.text in texts:
            self._at += 1
            return token
        return None

    def _unexpected(self) -> NoReturn:
        token = self._next
        if token.kind == "end":
            refuse(self._text, token.span, "it is not a condition: something is missing at its end")
        told = f"it is not a condition: {token.text!r} can't stand here"
        before = self._tokens[self._at - 1] if self._at else None
        if token.text.lower() in ("and", "or", "not", "in", "is", "null"):
            told += f"; write {token.text.lower()!r} in lower case, between two conditions"
        elif token.text == "(" and before is not None and before.kind == "name":
            told += "; functions are not part of a condition"
        elif token.text == "[" and before is not None and before.kind == "name":
            told += "; only lists stand in brackets"
        elif token.text in ("+", "-"):
            told += "; nothing is computed"
        elif before is not None and before.kind in ("name", "value"):
            told += "; join conditions by 'and' or 'or', write names with spaces in `backticks`"
        refuse(self._text, token.span, told)

    def _term(self, one: Condition) -> Condition:
        self._terms += 1
        if self._terms > MOST_TERMS:
            told = f"it has more than {MOST_TERMS:,} comparisons; for many values write in [...]"
            refuse(self._text, one.span, told)
        return one

    def _condition(self, node: Node) -> Condition:
        """Convert a node to a condition: a column alone must hold true and false."""
        if isinstance(node, Name):
            return self._term(IsTrue(node, node.span))
        if isinstance(node, (Constant, Listed)):
            told = "it is not a condition: a value alone says nothing; compare a column with it"
            refuse(self._text, node.span, told)
        return node

    def _deeper(self, depth: int, span: Span) -> int:
        if depth >= MOST_NESTED:
            refuse(self._text, span, f"it is nested more than {MOST_NESTED} levels deep")
        return depth + 1

    def _any(self, depth: int) -> Node:
        first = self._all(depth)
        if self._next.kind != "word" or self._next.text != "or":
            return first
        of = [self._condition(first)]
        while self._take("or"):
            of.append(self._condition(self._all(depth)))
        return Any(tuple(of), Span(of[0].span.start, of[-1].span.end))

    def _all(self, depth: int) -> Node:
        first = self._inverse(depth)
        if self._next.kind != "word" or self._next.text != "and":
            return first
        of = [self._condition(first)]
        while self._take("and"):
            of.append(self._condition(self._inverse(depth)))
        return All(tuple(of), Span(of[0].span.start, of[-1].span.end))

    def _inverse(self, depth: int) -> Node:
        token = self._take("not")
        if token is None:
            return self._comparison(depth)
        inner = self._condition(self._inverse(self._deeper(depth, token.span)))
        return Not(inner, Span(token.span.start, inner.span.end))

    def _comparison(self, depth: int) -> Node:
        first = self._operand(depth)
        if self._next.kind == "word" and self._next.text in ("in", "not"):
            return self._among(first, depth)
        if self._take("is"):
            return self._is_null(first)
        left, pairs = first, []
        while token := self._take(*COMPARISONS):
            right = self._operand(depth)
            pairs.append(self._compared(left, token, right))
            left = right
        if not pairs:
            return first
        return pairs[0] if len(pairs) == 1 else All(tuple(pairs), _over(pairs[0], pairs[-1]))

    def _compared(self, left: Node, token: Token, right: Node) -> Condition:
        if isinstance(left, Name) and isinstance(right, Listed) and token.text in ("==", "!="):
            # As pandas reads a comparison with a list.
            return self._term(Among(left, right, token.text == "!=", _over(left, right)))
        for side in (left, right):
            if isinstance(side, Constant) and side.value is None:
                refuse(self._text, side.span, "nothing equals null; write: NAME is null")
            if not isinstance(side, (Name, Constant)):
                refuse(self._text, side.span,
                       f"only a column or a value stands beside {token.text}")  # fmt: skip
        assert isinstance(left, (Name, Constant))
        assert isinstance(right, (Name, Constant))
        if isinstance(left, Constant) and isinstance(right, Constant):
            told = "it is not a condition: two values are compared, and no column is named"
            refuse(self._text, _over(left, right), told)
        return self._term(Compare(left, token.text, right, _over(left, right)))

    def _among(self, name: Node, depth: int) -> Condition:
        inverted = self._take("not") is not None
        token = self._take("in")
        if token is None:
            self._unexpected()
        values = self._operand(depth)
        if not isinstance(name, Name):
            refuse(self._text, name.span, "'in' follows a column name")
        if not isinstance(values, Listed):
            refuse(self._text, values.span, "'in' is followed by a list, such as ['s1', 's2']")
        return self._term(Among(name, values, inverted, _over(name, values)))

    def _is_null(self, name: Node) -> Condition:
        inverted = self._take("not") is not None
        token = self._next
        if token.kind != "value" or token.value is not None:
            refuse(
                self._text, token.span, "'is' is followed by 'null' or 'not null'; else write =="
            )
        self._at += 1
        if not isinstance(name, Name):
            refuse(self._text, name.span, "'is' follows a column name")
        span = Span(name.span.start, token.span.end)
        return self._term(IsNull(name, inverted, span))

    def _operand(self, depth: int) -> Node:
        token = self._next
        if token.kind == "name":
            self._at += 1
            return Name(str(token.value), token.span)
        if token.kind == "value":
            return self._constant()
        if self._take("-", "+"):
            return self._signed(token)
        if self._take("~"):
            inner = self._condition(self._operand(self._deeper(depth, token.span)))
            return Not(inner, Span(token.span.start, inner.span.end))
        if self._take("["):
            return self._list(token, [], "]")
        if self._take("("):
            return self._parenthesised(token, self._any(self._deeper(depth, token.span)))
        self._unexpected()

    def _parenthesised(self, begin: Token, inner: Node) -> Node:
        if isinstance(inner, Constant) and self._next.text == ",":
            return self._list(begin, [inner], ")")
        end = self._take(")")
        if end is None:
            self._unexpected()
        return replace(inner, span=Span(begin.span.start, end.span.end))

    def _constant(self) -> Constant:
        token = self._next
        sign = self._take("-", "+")
        if sign is not None:
            return self._signed(sign)
        if token.kind != "value":
            self._unexpected()
        if isinstance(token.value, int) and token.value > MOST_INT:
            refuse(self._text, token.span, f"whole numbers go from {LEAST_INT} to {MOST_INT}")
        self._at += 1
        return Constant(token.value, token.span)

    def _signed(self, sign: Token) -> Constant:
        token = self._next
        if isinstance(token.value, bool) or not isinstance(token.value, (int, float)):
            told = f"it is not a condition: a number stands after {sign.text}; nothing is computed"
            refuse(self._text, sign.span, told)
        self._at += 1
        value = -token.value if sign.text == "-" else token.value
        if isinstance(value, int) and value > MOST_INT:
            refuse(self._text, token.span, f"whole numbers go from {LEAST_INT} to {MOST_INT}")
        return Constant(value, Span(sign.span.start, token.span.end))

    def _list(self, begin: Token, values: list[Constant], closing: str) -> Listed:
        """Read a list after its opening bracket, and perhaps its first value."""
        if values:
            self._take(",")
        while (end := self._take(closing)) is None:
            value = self._constant()
            if value.value is None:
                refuse(self._text, value.span, "null is in no list; write: or NAME is null")
            values.append(value)
            if self._take(",") is None and self._next.text != closing:
                self._unexpected()
        return Listed(tuple(values), Span(begin.span.start, end.span.end))


def _over(first: Node, last: Node) -> Span:
    return Span(first.span.start, last.span.end)
