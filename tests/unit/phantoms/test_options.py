import pickle
from typing import Any

import pytest

from engine.errors import ParameterError
from engine.phantoms import DiscOptions, Placement
from engine.phantoms.discs.options import FOLDERS, Normal, Uniform, image_path, image_place


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("images", 0),
        ("images", 2.5),
        ("size", 0),
        ("size", (10, 0)),
        ("size", (10, 10, 10)),
        ("size", 10.5),
        ("placement", "stacked"),
        ("discs", (5, 3)),
        ("discs", (-1, 3)),
        ("discs", (1.0, 2.0)),
        ("radius_px", (0.5, 10)),
        ("radius_px", (20, 10)),
        ("radius_px", (10, 600)),
        ("radius_px", (10, float("nan"))),
        ("grey", (0.5, 1.1)),
        ("background", -0.1),
        ("noise", -0.01),
        ("noise", float("nan")),
        ("blur_px", -1),
        ("uneven", 2),
        ("distractors", -1),
        ("dtype", "float32"),
        ("seed", -1),
    ],
)
def test_bad_value_is_refused_by_name(parameter: str, value: object) -> None:
    options: dict[str, Any] = {parameter: value}
    with pytest.raises(ParameterError) as caught:
        DiscOptions(**options)
    assert caught.value.args[0] == parameter
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_default_is_the_lab() -> None:
    paths = [image_path(*image_place(DiscOptions(), number)) for number in range(12)]
    assert sorted(paths) == [
        f"{folder}/field-00{field}.png"
        for folder in (
            "2018-03-01/s1/exp1",
            "2018-04-01/s1/exp1",
            "2018-04-02/s2/exp1",
            "2018-04-02/s2/exp2",
        )
        for field in (1, 2, 3)
    ]


def test_placement_sets_defaults_that_options_override() -> None:
    lab = DiscOptions().content("s1")
    assert (lab.discs, lab.radius_px, lab.antialias) == ((30, 30), Normal(45, 5), False)
    made = DiscOptions(placement="covering", grey=(0.5, 0.6)).content("s1")
    assert (made.discs, made.radius_px, made.background) == ((3, 14), Uniform(10, 40), 0.2)
    assert made.grey == Uniform(0.5, 0.6)
    assert DiscOptions(placement="covering").placement is Placement.COVERING


@pytest.mark.parametrize("images", [1, 4, 13, 40, 4001])
def test_images_are_laid_evenly_and_sort_by_number(images: int) -> None:
    options = DiscOptions(images=images)
    places = [image_place(options, number) for number in range(images)]
    assert len(set(places)) == images
    for folder in FOLDERS:
        names = [name for where, name in places if where == folder]
        assert names == sorted(names)
        assert images // 4 <= len(names) <= images // 4 + 1


@pytest.mark.parametrize("number", [-1, 12])
def test_no_such_image(number: int) -> None:
    with pytest.raises(ParameterError, match="number"):
        image_place(DiscOptions(), number)
