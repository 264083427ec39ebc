"""Calibration of DICOM pixels: size in the patient, and units of values.

A spacing valid at the detector, or in a part of the image, is used with a finding; spacings that
differ between parts are rejected. A linear mapping to real-world values is used if the header has
no rescale (or 1 and 0) and the mapping covers all storable values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from engine.sources.dicom.values import NOTHING, first_item, items, number, numbers, text, whole

CALIBRATION = (
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelSpacingCalibrationType",
    "EstimatedRadiographicMagnificationFactor",
    "SequenceOfUltrasoundRegions",
    "RealWorldValueMappingSequence",
)
"""Header elements used for calibration."""

SAME = 1e-3
"""Relative difference below which spacings are equal."""

_UM_PER_MM, _MM_PER_CM = 1000.0, 10.0
_CM = 3  # PS3.3, C.8.5.5.1.15: unit of a direction
_TWO_DIMENSIONS = 1  # C.8.5.5.1.1: format of a region

Spacing = tuple[float, float]


def find_spacing(
    dataset: Dataset, shared: Dataset, own: Dataset
) -> tuple[Spacing | None, tuple[str, ...]]:
    """Return a frame's pixel spacing (y, x), micrometres, and its findings.

    In this order: PixelSpacing (PS3.3, 10.7.1), the spacing of an ultrasound's regions (C.8.5.5),
    at the detector (C.8.11.4, C.8.19.6), of a scanned film (C.8.1.1). Rows first.
    """
    measures = _group(shared, own, "PixelMeasuresSequence")
    detector = _pair(_group(shared, own, "FramePixelDataPropertiesSequence"), "ImagerPixelSpacing")
    detector = detector or _pair(dataset, "ImagerPixelSpacing")
    detector = detector or _pair(dataset, "NominalScannedPixelSpacing")
    found = _pair(measures, "PixelSpacing") or _pair(dataset, "PixelSpacing")
    if found is not None:
        calibrated = text(dataset, "PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL")
        at_detector = detector is not None and _same(found, detector) and not calibrated
        return found, ("spacing_at_detector",) if at_detector else ()
    if text(measures, "PixelSpacing") or text(dataset, "PixelSpacing"):
        return None, ("spacing_invalid",)
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    if regions:
        return _of_regions(regions)
    if detector is None:
        return None, ()
    factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if factor is None or factor < 1.0:  # an object before the detector is never projected smaller
        return detector, ("spacing_at_detector",)
    return (detector[0] / factor, detector[1] / factor), ("spacing_by_magnification",)


def _of_regions(regions: list[Dataset]) -> tuple[Spacing | None, tuple[str, ...]]:
    known = []
    for region in regions:
        units = [whole(region, f"PhysicalUnits{axis}Direction") for axis in "YX"]
        deltas = [abs(number(region, f"PhysicalDelta{axis}") or 0.0) for axis in "YX"]
        flat = whole(region, "RegionSpatialFormat", _TWO_DIMENSIONS) == _TWO_DIMENSIONS
        if flat and units == [_CM, _CM] and min(deltas) > 0:
            y, x = (delta * _MM_PER_CM * _UM_PER_MM for delta in deltas)
            known.append((y, x))
    if not known:
        return None, ()
    if not all(_same(known[0], other) for other in known):
        return None, ("spacing_differs",)
    return known[0], ("spacing_of_region",) if len(known) < len(regions) else ()


def _same(one: Spacing, other: Spacing) -> bool:
    return bool(np.allclose(one, other, rtol=SAME, atol=0.0))


def _pair(dataset: Dataset, keyword: str) -> Spacing | None:
    found = numbers(dataset, keyword)
    if found is None or len(found) != 2 or min(found) <= 0:
        return None
    return found[0] * _UM_PER_MM, found[1] * _UM_PER_MM


def _group(shared: Dataset, own: Dataset, name: str) -> Dataset:
    """Return an item of the functional groups: a frame's own before the shared one."""
    return next(filter(None, (first_item(group, name) for group in (own, shared))), NOTHING)


Rescale = tuple[float, float]


def find_rescale(
    dataset: Dataset, shared: Dataset, own: Dataset
) -> tuple[Rescale | None, tuple[str, ...]]:
    """Return (slope, intercept) from stored to modality or real-world units, and findings.

    Slope and intercept are read as in pydicom's `apply_modality_lut`; without them, a mapping to
    real-world values is used (PS3.3, C.7.6.16.2.11).
    """
    found, findings = _modality_rescale(dataset, shared, own)
    mappings = list(_mappings(dataset, shared, own))
    if not mappings or all(line == (found or (1.0, 0.0)) for line, _ in mappings):
        return found, findings
    (line, of_all), *others = mappings
    plain = found in (None, (1.0, 0.0)) and not findings
    if line is not None and of_all and not others and plain:
        return line, ()
    return found, (*findings, "real_world_values")


def _mappings(
    dataset: Dataset, shared: Dataset, own: Dataset
) -> Iterator[tuple[Rescale | None, bool]]:
    """Yield each mapping to real-world values, and True if it covers all storable values.

    A mapping by a table instead of a line is None.
    """
    name = "RealWorldValueMappingSequence"
    found = next(filter(None, (items(place, name) for place in (own, shared, dataset))), [])
    bits = whole(dataset, "BitsStored") or whole(dataset, "BitsAllocated") or 16
    signed = whole(dataset, "PixelRepresentation") == 1
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    for mapping in found:
        slope, intercept = (number(mapping, f"RealWorldValue{n}") for n in ("Slope", "Intercept"))
        first = number(mapping, "RealWorldValueFirstValueMapped")
        last = number(mapping, "RealWorldValueLastValueMapped")
        of_all = first is None or last is None or (first <= least and last >= most)
        yield (None if slope is None or intercept is None else (slope, intercept)), of_all


def _modality_rescale(
    dataset: Dataset, shared: Dataset, own: Dataset
) -> tuple[Rescale | None, tuple[str, ...]]:
    if items(dataset, "ModalityLUTSequence"):
        return None, ("modality_lut",)
    group = "PixelValueTransformationSequence"
    places = (first_item(own, group), first_item(shared, group), dataset)
    place = next((p for p in places if "RescaleSlope" in p or "RescaleIntercept" in p), None)
    if place is None:
        return None, ()
    slope, intercept = number(place, "RescaleSlope"), number(place, "RescaleIntercept")
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is None and text(place, keyword):
            return None, ("rescale_invalid",)
    partial = ("rescale_partial",) if None in (slope, intercept) else ()
    return (1.0 if slope is None else slope, intercept or 0.0), partial
