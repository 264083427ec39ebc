"""Seeding of random states that belong to a transform, for one item.

Each process of a loader holds a copy of them, and all copies draw the same numbers, so results
would depend on the process that an item came to. So all states reachable from a transform are
seeded for each item.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

MOST_OBJECTS = 100_000
"""Limit of objects searched for states: a pipeline has some hundreds."""

STATES = (np.random.RandomState, np.random.Generator, np.random.BitGenerator, random.Random)

LEAVES = (str, bytes, bytearray, int, float, complex, np.ndarray, np.generic, ModuleType, CodeType)
"""Types that hold no random states."""


@contextmanager
def seeded(transform: Callable[..., Any], seed: tuple[int, ...]) -> Iterator[None]:
    """Seed the random states that a transform draws from, and restore them afterwards.

    These are the states of Python's `random`, of `numpy.random`, and all states reachable through
    the transform's attributes, members, closure and the global names that it uses: numpy's
    ``RandomState`` and ``Generator`` (MONAI's ``Randomizable`` has one), ``random.Random`` and
    ``torch.Generator``. A state that is created within a call can't be seeded.

    Parameters
    ----------
    transform
        Transform to be called.
    seed
        Numbers, from 0.
    """
    found = [random._inst, np.random.mtrand._rand, *states_of(transform)]
    seeds = np.random.SeedSequence(seed).generate_state(len(found) + 1, np.uint64)[1:].tolist()
    undo = []
    try:
        for state, number in zip(found, seeds, strict=True):
            undo.append(_seed(state, number))
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


def states_of(transform: object) -> list[Any]:
    """Return the random states reachable from an object, each once, in a fixed order.

    Examples
    --------
    >>> class Shift:
    ...     def __init__(self):
    ...         self.steps = [partial(round, np.random.default_rng(1))]
    ...         self.own = random.Random(2)
    >>> [type(state).__name__ for state in states_of(Shift())]
    ['Generator', 'Random']
    """
    torch = sys.modules.get("torch")
    kinds = STATES if torch is None else (*STATES, torch.Generator)
    leaves = LEAVES if torch is None else (*LEAVES, torch.Tensor)
    states: list[Any] = []
    seen: dict[int, object] = {}  # keeps objects alive, so that ids stay unique
    waiting: list[object] = [transform]
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen or one is None or isinstance(one, leaves):
            continue
        seen[id(one)] = one
        if isinstance(one, kinds):
            states.append(one)
        else:
            waiting += reversed(list(_held_by(one, kinds)))
    return states


def _held_by(one: object, kinds: tuple[type, ...]) -> Iterator[object]:
    """Yield the objects that an object holds."""
    if isinstance(one, Mapping):
        with suppress(Exception):  # a lazy mapping may run any code
            yield from one.values()
    elif isinstance(one, (list, tuple, set, frozenset)):
        yield from one
    elif isinstance(one, partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif isinstance(one, MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, FunctionType):
        yield from _used_by(one)
        yield from one.__defaults__ or ()
        yield from (one.__kwdefaults__ or {}).values()
        for cell in one.__closure__ or ():
            with suppress(ValueError):  # still empty
                yield cell.cell_contents
    if isinstance(one, type):
        return
    yield from getattr(one, "__dict__", {}).values()
    for kind in type(one).__mro__:
        for name in vars(kind).get("__slots__", ()) if kind is not object else ():
            yield getattr(one, name, None)
        # A state of the class, such as `Randomizable.R`, and the globals that its call uses.
        yield from (held for held in vars(kind).values() if isinstance(held, kinds))
        for name in ("__call__", "forward"):
            if isinstance(called := vars(kind).get(name), FunctionType):
                yield from (used for used in _used_by(called) if isinstance(used, kinds))


def _used_by(function: FunctionType) -> Iterator[object]:
    """Yield the globals that a function uses, except those defined by other modules."""
    codes, names = [function.__code__], dict[str, None]()
    while codes:
        code = codes.pop()
        names.update(dict.fromkeys(code.co_names))
        codes += [held for held in code.co_consts if isinstance(held, CodeType)]
    for name in names:
        held = function.__globals__.get(name)
        other = isinstance(held, FunctionType) and held.__module__ != function.__module__
        if held is not None and not other and not isinstance(held, type):
            yield held


def _seed(state: Any, number: int) -> Callable[[], object]:
    """Seed a state; return a function that restores it."""
    if isinstance(state, random.Random):
        try:
            before = state.getstate()
        except NotImplementedError:  # system entropy
            return lambda: None
        state.seed(number)
        return lambda: state.setstate(before)
    if isinstance(state, (np.random.RandomState, np.random.Generator, np.random.BitGenerator)):
        bits: Any = state
        if isinstance(state, np.random.RandomState):
            bits = state._bit_generator
        elif isinstance(state, np.random.Generator):
            bits = state.bit_generator
        if isinstance(state, np.random.RandomState) and isinstance(bits, np.random.MT19937):
            told = state.get_state()  # includes the cached second normal value
            state.seed(number % 2**32)
            return lambda: state.set_state(told)
        before_bits = bits.state
        bits.state = type(bits)(number).state
        return lambda: setattr(bits, "state", before_bits)
    before_torch = state.get_state()
    state.manual_seed(number)
    return lambda: state.set_state(before_torch)
