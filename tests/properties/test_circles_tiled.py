"""Tiles give the circles of the whole image, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.geometry import plan_tiles
from engine.kernels.circles import detect_circles, halo_px
from engine.kernels.noise import noise_sd


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(90, 420), st.integers(90, 420)),
    tile=st.tuples(st.integers(30, 200), st.integers(30, 200)),
    radii=st.sampled_from([(3, 9), (4, 17), (8, 30)]),
    noise=st.sampled_from([0.0, 4.0, 20.0]),
    adds=st.booleans(),
)
def test_tiles_give_the_circles_of_the_image(seed, shape, tile, radii, noise, adds):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = np.full(shape, 40.0)
    for _ in range(rng.integers(1, 40)):
        cy, cx = rng.uniform((0, 0), shape)
        cover = np.clip(rng.uniform(*radii) + 0.5 - np.hypot(y - cy, x - cx), 0, 1)
        grey = rng.uniform(30, 180)
        plane = plane + grey * cover if adds else plane * (1 - cover) + grey * cover
    plane += rng.normal(0, 1, shape) * noise
    image = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
    sd = noise_sd(image)
    whole = detect_circles(image, radius_px=radii, noise_sd=sd)
    rows = [
        row
        for part in plan_tiles(shape, tile, halo_px(radii))
        for row in detect_circles(
            image[part.read.slices], radius_px=radii, noise_sd=sd, origin=part.read.start
        )
        if part.write.holds(row[0], row[1])
    ]
    tiled = np.array(rows).reshape(-1, 4)
    assert np.array_equal(tiled[np.lexsort((tiled[:, 2], tiled[:, 1], tiled[:, 0]))], whole)
