"""``cohort phantom``: synthetic images with exactly known truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import ParameterError
from engine.execution.progress import pluralise
from engine.phantoms import CineOptions, DiscOptions, write_cine, write_discs
from engine.phantoms.cells.files import IMAGES, SUBJECTS_FILE, write_cells
from engine.phantoms.cells.options import CellOptions
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import FORMATS, MarrowOptions
from jobs.framework import command
from jobs.options import read_value
from jobs.output import Output

app = typer.Typer(help="Make images with known truth beside them.")

OPTIONS = {
    "channels": "--channels",
    "directory": "DIR",
    "discs": "--discs",
    "format": "--format",
    "radius_px": "--radius-px",
    "size_px": "--size",
    "spacing_mm": "--spacing-mm",
    "spacing_um": "--spacing-um",
}
"""Option names that differ from ``--name``, or that errors of the engine mention."""


@contextmanager
def named_as_options() -> Iterator[None]:
    """Use the option names of the command line in parameter errors."""
    try:
        yield
    except ParameterError as error:
        parameter, value, expected = error.args
        option = OPTIONS.get(parameter, f"--{parameter.replace('_', '-')}")
        for name in (name for name in OPTIONS if "_" in name):
            expected = expected.replace(name, OPTIONS[name])
        raise ParameterError(option, value, expected) from None


Range = Annotated[str | None, typer.Option(metavar="LOW:HIGH")]


@app.callback()
def phantoms() -> None:
    """Make images with known truth beside them."""


@command(app)
def discs(
    output: Output,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    images: Annotated[int, typer.Option(help="Number of images.")] = 12,
    size: Annotated[str, typer.Option(metavar="PX", help="Side, or HEIGHTxWIDTH.")] = "1024",
    placement: Annotated[
        str, typer.Option(help="adding (grey values add), separate or covering.")
    ] = "adding",
    count: Annotated[
        str | None, typer.Option("--discs", metavar="N", help="Discs an image, N or LOW:HIGH.")
    ] = None,
    radius_px: Annotated[str | None, typer.Option(metavar="LOW:HIGH", help="Radii, px.")] = None,
    grey: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Of the discs, shares of full scale.")
    ] = None,
    background: Annotated[float | None, typer.Option(help="Share of full scale.")] = None,
    antialias: Annotated[bool | None, typer.Option(help="Soft or hard edges.")] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation, share of full scale.")] = 0.0,
    blur_px: Annotated[float, typer.Option(help="Gaussian blur, px.")] = 0.0,
    uneven: Annotated[float, typer.Option(help="Uneven light, share of full scale.")] = 0.0,
    distractors: Annotated[int, typer.Option(help="Ellipses and lines an image.")] = 0,
    dtype: Annotated[str, typer.Option(help="uint8 or uint16.")] = "uint8",
    seed: Annotated[int, typer.Option(help="The same seed makes the same images.")] = 0,
) -> int:
    """Make images of discs, by default those of a lab with two subjects."""
    with named_as_options():
        options = DiscOptions(
            images=images,
            size=_size(size),
            placement=placement,  # type: ignore[arg-type]
            discs=_range("discs", count, int),
            radius_px=_range("radius_px", radius_px, float),
            grey=_range("grey", grey, float),
            background=background,
            antialias=antialias,
            noise=noise,
            blur_px=blur_px,
            uneven=uneven,
            distractors=distractors,
            dtype=dtype,  # type: ignore[arg-type]
            seed=seed,
        )
        truth = write_discs(directory, options)
    output.result(
        {"directory": str(directory), "images": images, "truth": str(truth)},
        f"Made {pluralise(images, 'images')} of discs in {directory}; their truth is in {truth}.",
    )
    return 0


@command(app)
def cine(
    output: Output,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 2,
    slices: Annotated[int, typer.Option(help="Short-axis slices.")] = 8,
    phases: Annotated[int, typer.Option(help="Phases of the beat.")] = 20,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the plane.")] = 160,
    spacing_mm: Annotated[float, typer.Option(help="Pixel spacing, mm.")] = 1.4,
    noise: Annotated[float, typer.Option(help="Rician sigma, grey levels; blood is 600.")] = 14.0,
    origin: Annotated[int, typer.Option(help="First pixel's centre in contours, 0 or 1.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = 0,
) -> int:
    """Make a beating ventricle as DICOM files, with contours in Sunnybrook's format."""
    with named_as_options():
        options = CineOptions(
            patients=patients,
            slices=slices,
            phases=phases,
            size_px=size,
            spacing_mm=spacing_mm,
            noise=noise,
            origin=origin,
            seed=seed,
        )
        truth = write_cine(directory, options)
    frames = patients * slices * phases
    output.result(
        {"directory": str(directory), "frames": frames, "truth": str(truth)},
        f"Made {pluralise(frames, 'frames')} of {pluralise(patients, 'hearts')} in "
        f"{directory / 'dicoms'}, with contours in {directory / 'contourfiles'}; their truth is "
        f"in {truth}.",
    )
    return 0


@command(app)
def marrow(
    output: Output,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    images: Annotated[int, typer.Option(help="Number of slides.")] = 6,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Pixels.")] = "1400x700",
    scale: Annotated[float, typer.Option(help="Size of all structures, as a factor.")] = 1.0,
    variety: Annotated[
        float, typer.Option(help="How much slides differ: 0 not, 1 as in one laboratory, 2 more.")
    ] = 1.0,
    file_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}.")
    ] = "png",
    seed: Annotated[int, typer.Option(help="The same seed makes the same slides.")] = 0,
) -> int:
    """Make slides of bone marrow, with exact masks of bone, fat and other tissue."""
    with named_as_options():
        sides = _size(size)
        options = MarrowOptions(
            images=images,
            size=(sides, sides) if isinstance(sides, int) else sides,
            scale=scale,
            variety=variety,
            format=file_format,  # type: ignore[arg-type]
            seed=seed,
        )
        truth = write_marrow(directory, options)
    output.result(
        {"directory": str(directory), "images": images, "truth": str(truth)},
        f"Made {images} slides of marrow in {directory}/slides, with masks in "
        f"{directory}/masks; their areas are in {truth}.",
    )
    return 0


@command(app)
def cells(
    output: Output,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    images: Annotated[int, typer.Option(help="Number of fields, of six subjects in turn.")] = 12,
    size: Annotated[str, typer.Option(metavar="PX", help="Side, or HEIGHTxWIDTH.")] = "1024",
    channels: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Names of the two channels.")
    ] = "DAPI,CD3",
    spacing_um: Annotated[float, typer.Option(help="Pixel size, micrometres.")] = 0.325,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = 0,
) -> int:
    """Make two-channel fluorescence (OME-TIFF) of touching cells, with exact instance masks.

    Nuclei are in the first channel; in the second, some cells are positive for a marker. The share
    of positive cells differs between the groups of subjects.csv. Fields of any size are streamed.
    """
    with named_as_options():
        sides = _size(size)
        options = CellOptions(
            images=images,
            size=(sides, sides) if isinstance(sides, int) else sides,
            channels=tuple(channels.split(",")),  # type: ignore[arg-type]
            spacing_um=spacing_um,
            seed=seed,
        )
        truth = write_cells(directory, options)
    pixels, groups = directory / IMAGES, directory / SUBJECTS_FILE
    output.result(
        {
            "directory": str(directory),
            "images": images,
            "truth": str(truth),
            "subjects": str(groups),
        },
        f"Made {pluralise(images, 'fields')} of cells in {pixels}; masks and a table of the nuclei "
        f"are in {truth.parent}, the subjects' groups in {groups}.\n"
        f"Next: cohort ingest COHORT {pixels}",
    )
    return 0


def _size(text: str) -> int | tuple[int, int]:
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        raise ParameterError("size", text, "a side or HEIGHTxWIDTH, e.g. 512x768") from None
    if len(sides) > 2:
        raise ParameterError("size", text, "a side or HEIGHTxWIDTH, e.g. 512x768")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _range(name: str, text: str | None, kind: type) -> Any:
    if text is None:
        return None
    value = read_value(text)
    pair = value if isinstance(value, tuple) else (value, value)
    try:
        return tuple(kind(number) for number in pair)
    except (TypeError, ValueError):
        raise ParameterError(name, text, "a number or LOW:HIGH") from None
