"""Detection of external data in an ONNX file, from its bytes, without the onnx package.

A tensor's values may be stored in another file, which onnxruntime looks for in the working
directory, or at an address in memory. No digest covers such values, so the same key could give
different results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.errors import ParameterError
from engine.learning.models.weights import WeightsRefused

MOST_NESTED = 64
"""Limit of nested graphs; exporters write a few levels."""

# Nested messages, by field (onnx.proto3 of ONNX 1.23); other fields are skipped.
_WITHIN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def require_whole(data: bytes, file: Path) -> None:
    """Refuse a graph with weights in other files.

    Parameters
    ----------
    data
        The file's bytes.
    file
        Its path, for the error.

    Raises
    ------
    WeightsRefused
        If a tensor refers to external data.
    ParameterError
        If the bytes are not an ONNX file.
    """
    try:
        outside = _refers_outside(memoryview(data), "model", 0)
    except (IndexError, ValueError):
        raise ParameterError("model", str(file), "one ONNX graph") from None
    if outside:
        raise WeightsRefused(
            file,
            "weights of this graph are in other files, which no digest holds; save it whole: "
            "onnx.save(onnx.load(FILE), FILE, save_as_external_data=False)",
        )


def _refers_outside(message: memoryview, kind: str, depth: int) -> bool:
    if depth > MOST_NESTED:
        raise ValueError(kind)
    within = _WITHIN.get(kind, {})
    for field, value in _fields(message):
        if kind == "tensor":
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                return True
        elif field in within and isinstance(value, memoryview):
            if _refers_outside(value, within[field], depth + 1):
                return True
        elif field in within:
            raise ValueError(field)
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field (Protocol Buffers, "Encoding")."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:  # groups, which ONNX never used
            raise ValueError(wire)
        if at + length > len(message):
            raise ValueError(length)
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(shift)
