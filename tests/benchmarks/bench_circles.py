"""Circles against OpenCV and scikit-image: time ratios, with the accuracy of each beside them.

Run: python -m tests.benchmarks.bench_circles [FILE.json]

Every image is given to each detector in turn, so that a busy machine slows all of them alike; a
ratio is that of the medians over all images and rounds. One thread each, compiled beforehand.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.feature import canny
from skimage.transform import hough_circle, hough_circle_peaks

from engine.kernels.circles.detect import detect_circles
from engine.phantoms.discs.image import DiscImage, draw_disc_image
from engine.phantoms.discs.options import DiscOptions
from engine.phantoms.discs.scoring import match_circles, merge_scores

Detector = Callable[[NDArray[Any], int], NDArray[np.float64]]
"""Takes an image and the number of its discs, which only scikit-image is told."""

RADII_PX = (8, 43)
ROUNDS = 5
SKIMAGE_IMAGES = 3
"""scikit-image takes a second an image; OpenCV as long where noise gives it many edges."""


def engine(image: NDArray[Any], count: int = 0) -> NDArray[np.float64]:
    return detect_circles(image, radius_px=RADII_PX)


def opencv(image: NDArray[Any], count: int = 0) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
    found = cv2.HoughCircles(
        blurred, cv2.HOUGH_GRADIENT, dp=1, minDist=12, param1=60, param2=16, minRadius=8,
        maxRadius=43,
    )  # fmt: skip
    return np.empty((0, 3)) if found is None else found.reshape(-1, found.shape[-1])[:, [1, 0, 2]]


def scikit_image(image: NDArray[Any], count: int) -> NDArray[np.float64]:
    radii = np.arange(8, 43, 2)
    space = hough_circle(canny(image, sigma=3), radii)
    # It has no threshold that would serve all images: told the number of discs, it is at its best.
    _, x, y, radius = hough_circle_peaks(
        space, radii, min_xdistance=12, min_ydistance=12, total_num_peaks=count
    )
    return np.stack([y, x, radius], 1).astype(float)


def draw(**options: Any) -> list[DiscImage]:
    made = DiscOptions(**options)
    return [draw_disc_image(made, number) for number in range(made.images)]


def compare(
    images: list[DiscImage], detectors: dict[str, Detector], rounds: int
) -> dict[str, dict[str, float]]:
    """Return the median time in ms and the accuracy of each detector."""
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    scores: dict[str, list[Any]] = {name: [] for name in detectors}
    for name, detect in detectors.items():
        detect(images[0].pixels, len(images[0].circles))
        scores[name] = []
    for turn in range(rounds):
        for image in images:
            for name, detect in detectors.items():
                count = len(image.circles)
                start = time.perf_counter()
                found = detect(image.pixels, count)
                seconds[name].append(time.perf_counter() - start)
                if turn == 0:
                    scores[name].append(match_circles(image.circles, found))
    table = {}
    for name in detectors:
        score = merge_scores(scores[name])
        table[name] = {
            "ms": 1e3 * statistics.median(seconds[name]),
            "least_ms": 1e3 * min(seconds[name]),
            "f1": score.f1,
            "centre_px": score.mean_centre_error_px,
            "radius_px": score.mean_radius_error_px,
        }
    return table


def main() -> None:
    cv2.setNumThreads(1)
    report: dict[str, Any] = {}
    for label, placement, noise in (
        ("3 %", "separate", 0.03),
        ("8 %", "separate", 0.08),
        ("15 %", "separate", 0.15),
        ("overlaps 8 %", "covering", 0.08),
    ):
        images = draw(images=40, size=512, placement=placement, noise=noise, blur_px=1, seed=0)
        fast = noise <= 0.03
        report[label] = {
            **compare(images, {"engine": engine, "opencv": opencv}, ROUNDS if fast else 1),
        }
        few = images[:SKIMAGE_IMAGES]
        both = compare(few, {"engine": engine, "scikit-image": scikit_image}, 1)
        report[label]["scikit-image"] = both["scikit-image"]
        report[label]["to_opencv"] = report[label]["engine"]["ms"] / report[label]["opencv"]["ms"]
        report[label]["times_scikit_image"] = both["scikit-image"]["ms"] / both["engine"]["ms"]
    images = draw(seed=0)
    times = []
    for _ in range(ROUNDS):
        for image in images:
            start = time.perf_counter()
            detect_circles(image.pixels, radius_px=(15, 65))
            times.append(time.perf_counter() - start)
    score = merge_scores(
        match_circles(
            image.circles,
            detect_circles(image.pixels, radius_px=(15, 65)),
            ignore=image.visible_edge < 0.3,
        )
        for image in images
    )
    report["default phantoms"] = {
        "engine": {
            "ms": 1e3 * statistics.median(times),
            "least_ms": 1e3 * min(times),
            "f1": score.f1,
            "centre_px": score.mean_centre_error_px,
            "radius_px": score.mean_radius_error_px,
        }
    }
    print(f"{'set':18}{'detector':14}{'ms':>9}{'least':>9}{'F1':>8}{'centre':>8}{'radius':>8}")
    for label, rows in report.items():
        for name, row in rows.items():
            if isinstance(row, dict):
                print(
                    f"{label:18}{name:14}{row['ms']:9.2f}{row['least_ms']:9.2f}{row['f1']:8.4f}"
                    f"{row['centre_px']:8.3f}{row['radius_px']:8.3f}"
                )
            else:
                print(f"{label:18}{name} {row:.3g}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
