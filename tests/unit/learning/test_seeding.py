# ruff: noqa: NPY002 - the global state is one that is seeded
"""Transforms with random states of their own: the same draws in any number of processes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine.learning.datasets.seeding import seeded, states_of

torch = pytest.importorskip("torch")

SAME_SHAPE = "height == 40 and width == 48"

GLOBAL = np.random.default_rng(5)


def filled(image: Any, value: float) -> Any:
    return torch.full_like(torch.as_tensor(image), value)


class OfTorch:
    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self, image: Any) -> Any:
        return filled(image, float(torch.rand(1, generator=self.generator)))


class OfNumpy:
    def __init__(self, state: Any) -> None:
        self.steps = {"noise": [state]}

    def __call__(self, image: Any) -> Any:
        return filled(image, self.steps["noise"][0].normal())


class OfPython:
    __slots__ = ("own",)

    def __init__(self) -> None:
        self.own = random.Random(3)

    def __call__(self, image: Any) -> Any:
        return filled(image, self.own.random())


def of_globals(image: Any) -> Any:
    return filled(image, np.random.random() + random.random())


def of_a_global(image: Any) -> Any:
    return filled(image, GLOBAL.normal())


def of_a_closure() -> Callable[[Any], Any]:
    state = np.random.default_rng()
    return lambda image: filled(image, state.random())


def of_monai() -> Callable[[Any], Any]:
    transforms = pytest.importorskip("monai.transforms")

    class Draw(transforms.Randomizable):  # type: ignore[misc,name-defined]
        def randomize(self, data: Any = None) -> None:
            self.value = float(self.R.random())

        def __call__(self, image: Any) -> Any:
            self.randomize()
            return filled(image, self.value)

    return Draw()


def composed() -> Callable[[Any], Any]:
    transforms = pytest.importorskip("monai.transforms")
    compose = transforms.Compose([lambda image: image * 0.0, transforms.RandGaussianNoise(1.0)])
    return lambda image: torch.as_tensor(np.asarray(compose(torch.as_tensor(image))))


MAKERS: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "torch": OfTorch,
    "numpy generator": lambda: OfNumpy(np.random.default_rng()),
    "numpy state": lambda: OfNumpy(np.random.RandomState(1)),
    "numpy with other bits": lambda: OfNumpy(np.random.RandomState(np.random.PCG64(1))),
    "python": OfPython,
    "globals": lambda: of_globals,
    "a global": lambda: of_a_global,
    "a closure": of_a_closure,
    "monai": of_monai,
    "monai composed": composed,
}


def draws(cohort: engine.Cohort, augment: Callable[[Any], Any], workers: int) -> list[list[float]]:
    """Return what was drawn in two epochs, for each image in order of its name."""
    batches = cohort.batches(SAME_SHAPE, batch_size=2, augment=augment, workers=workers)
    found = []
    for _ in range(2):
        drawn = {}
        for batch in batches:
            for name, image in zip(batch["image_id"], batch["image"], strict=True):
                drawn[name] = float(image.flatten()[0])
        found.append([drawn[name] for name in sorted(drawn)])
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_each_item_and_epoch_has_its_own_draws(pictures: engine.Cohort, kind: str) -> None:
    first, second = draws(pictures, MAKERS[kind](), 0)
    assert len({*first, *second}) == len(first) + len(second) == 24
    if kind in ("monai", "torch", "a global"):  # processes take time to start
        assert draws(pictures, MAKERS[kind](), 2) == [first, second]
    else:
        assert draws(pictures, MAKERS[kind](), 0) == [first, second]


def test_what_was_seeded_is_put_back() -> None:
    state, bits = np.random.RandomState(7), np.random.default_rng(7)
    own = random.Random(7)
    state.normal()  # holds a second value back
    held = [state, bits, own]
    due = [np.random.RandomState(7), np.random.default_rng(7), random.Random(7)]
    due[0].normal()
    before = random.getstate(), np.random.get_state()[1].tolist()
    with seeded(lambda: held, (1, 2, 3)):
        assert state.normal() != np.random.RandomState(7).normal()
        bits.normal()
        own.random()
        random.random()
        np.random.random()
    assert state.normal() == due[0].normal()
    assert bits.normal() == due[1].normal()
    assert own.random() == due[2].random()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_search_ends_where_things_hold_each_other() -> None:
    loop: list[Any] = [np.random.default_rng(0)]
    loop += [loop, {"again": loop}, random.SystemRandom()]
    assert [type(one).__name__ for one in states_of(loop)] == ["Generator", "SystemRandom"]
    with seeded(lambda: loop, (0,)):
        pass
