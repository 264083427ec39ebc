"""Digests of an image's inputs. The inputs digest and the key together identify a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import ParameterError
from engine.kernels.colour import has_luminance
from engine.operations.base import INPUTS, Operation
from engine.operations.channels import find_channel
from engine.store.arrow import fill_null
from engine.store.catalog.derived import CHANNEL_NAMES
from engine.store.catalog.tables import field_column
from engine.store.digests import digest_of
from engine.store.path_pattern import FIELDS

RESCALE = ("slope", "intercept")


def image_inputs(operation: Operation, images: pa.Table) -> list[str]:
    """Return the inputs digest of each image, over the inputs that the operation declares.

    Parameters
    ----------
    images
        Catalog rows with ``content``, ``channels``, ``noise_sd``, ``source`` and the columns of
        spacing and rescale; also ``image_id``, ``fields`` and ``channel_names`` for operations that
        read these.
    """
    contents = _contents(images)
    chosen = operation.named_channels
    declared = (*operation.inputs, *(("upstream",) if operation.upstream else ()))
    if declared == ("content",) and not chosen:
        return contents
    columns: dict[str, Callable[[], list[Any]]] = {
        "content": lambda: contents,
        "spacing": lambda: list(
            zip(*(images[f"spacing_{axis}_um"].to_pylist() for axis in "yx"), strict=True)
        ),
        "rescale": lambda: list(
            zip(*(images[f"rescale_{part}"].to_pylist() for part in RESCALE), strict=True)
        ),
        "annotation": lambda: _annotations(operation, images),
        "fields": lambda: _fields(images),
        "channels": lambda: images[CHANNEL_NAMES].to_pylist(),
        "upstream": lambda: images["upstream"].to_pylist(),
    }
    if not set(operation.inputs) <= set(columns):
        raise ParameterError("inputs", operation.inputs, f"out of {', '.join(INPUTS)}")
    read = {name: columns[name]() for name in declared}
    if chosen:
        read["chosen"] = _chosen(chosen, images)
    # Images without names keep the digests that they had before names existed.
    return [
        digest_of({n: values[i] for n, values in read.items() if n != "channels" or values[i]})
        for i in range(len(contents))
    ]


def _contents(images: pa.Table) -> list[str]:
    """Return the digest of each image's pixels, combined with the channel meaning if it is unusual.

    The usual meaning is the default for images without channel metadata.
    """
    contents: list[str] = images["content"].to_pylist()
    channels, noises = (
        np.from_dlpack(fill_null(column, 0).combine_chunks())
        for column in (images["channels"], pc.list_value_length(images["noise_sd"]))
    )
    for kind in set(zip(channels.tolist(), noises.tolist(), strict=True)):
        told = has_luminance(*kind)
        if told != has_luminance(kind[0], 0):
            for n in np.flatnonzero((channels == kind[0]) & (noises == kind[1])):
                contents[n] = digest_of({"content": contents[n], "separate": not told})
    return contents


def _fields(images: pa.Table) -> list[Any]:
    """Return each image's catalog identity: its source and the values of `Image.fields`."""
    columns = [images["source"], images["image_id"], *(field_column(images, n) for n in FIELDS)]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _chosen(names: Sequence[str], images: pa.Table) -> list[list[int | None]]:
    """Return the numbers of named channels in each image; other names have no influence."""
    return [
        [find_channel(name, of_image or (), len(of_image or ())) for name in names]
        for of_image in images[CHANNEL_NAMES].to_pylist()
    ]


def _annotations(operation: Operation, images: pa.Table) -> list[Any]:
    """Return the annotation digest of each image, the operation's own digest, or both."""
    own = [operation.extra_input_digest(source) for source in images["source"].to_pylist()]
    if "annotation" not in images.column_names:
        return own
    drawn = images["annotation"].to_pylist()
    return [mine if d is None else [d, mine] for d, mine in zip(drawn, own, strict=True)]
