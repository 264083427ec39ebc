"""``cohort model``: import weights made elsewhere, and describe models."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from engine.errors import ParameterError
from engine.learning.models.bundle import Bundle, import_model, open_bundle
from engine.learning.models.card import Card, make_classes, read_card
from engine.plain_files import read_plain
from jobs.framework import command
from jobs.output import Output

app = typer.Typer(help="Take weights made elsewhere, and say what a model is.")


@app.callback()
def models() -> None:
    """Import weights made elsewhere, and describe models."""


@command(app, name="import")
def import_weights(
    output: Output,
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help=".safetensors, .pt (a state dict) or .onnx.")
    ],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A new folder.")],
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with any of a card's fields.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="unet, deeplabv3, fusion, ensemble or onnx.")
    ] = None,
    options: Annotated[
        str | None, typer.Option(metavar="JSON", help="""Of it, e.g. '{"width": 32}'.""")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="In the order of labels: background,bone,fat,other."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Expected SHA-256 of the file.")
    ] = None,
) -> int:
    """Import weights made elsewhere as a model. No code in the file is executed."""
    values = _read_json(card) if card else {}
    values.setdefault("name", bundle.name)
    values.setdefault("architecture", "onnx" if weights.suffix == ".onnx" else "unet")
    if architecture is not None:
        values["architecture"] = architecture
    if options is not None:
        values["options"] = _object("--options", options)
    if classes is not None:
        values["classes"] = _classes(classes)
    where = str(card) if card else "options"
    made, new = import_model(weights, bundle, read_card(values, where), sha256)
    lines = _lines(made)
    if new:
        lines.append(f"Not in the file, so random until trained: {', '.join(new)}.")
    output.result({**_values(made), "random": list(new)}, *lines)
    return 0


@command(app)
def show(
    output: Output,
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="A model's folder, or the name of a bundled one."),
    ],
) -> int:
    """Describe a model, and check its weights against its card."""
    found = open_bundle(bundle)
    found.read_weights()
    output.result(_values(found), *_lines(found))
    return 0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _object("--card", read_plain(path).decode())
    except (OSError, UnicodeDecodeError) as error:
        problem = f"unreadable ({type(error).__name__})"
        raise ParameterError("--card", f"{path}: {problem}", "a JSON file") from None


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        values = json_text.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ParameterError(option, text[:60], "a JSON object")
    return values


def _classes(names: str) -> list[dict[str, Any]]:
    listed = [name.strip() for name in names.split(",")]
    try:
        return [each.model_dump() for each in make_classes(listed)]
    except ValidationError:
        raise ParameterError("--classes", names, "names of small letters, digits and _") from None


def _values(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": str(bundle.directory),
        "digest": bundle.digest,
        **bundle.card.model_dump(mode="json"),
    }


def _lines(bundle: Bundle) -> list[str]:
    card: Card = bundle.card
    options = ", ".join(f"{name} {value}" for name, value in card.options.items())
    size = card.weights.nbytes / 1e6 if card.weights else 0.0
    spacing = f", trained at {card.spacing_um:g} um" if card.spacing_um else ""
    lines = [
        f"{card.name}: {card.architecture}{f' ({options})' if options else ''}, {size:.1f} MB",
        f"Classes: {', '.join(f'{n} {c.name}' for n, c in enumerate(card.classes))}",
        f"Takes {', '.join(card.channels)}{spacing}; tiles of {card.tile_px} px with a halo of "
        f"{card.halo_px} px",
    ]
    if card.metrics:
        lines.append(f"Measured: {', '.join(f'{k} {v:g}' for k, v in card.metrics.items())}")
    if card.made_by:
        lines.append(f"Made by: {card.made_by}")
    return [*lines, f"Key: {bundle.digest}"]
