"""What the header of a medical image says of a plane: facts that are kept, and who it is of.

Only numbers and terms that the standard enumerates are facts; no text of a file is one. Identifiers
stand apart in `Identity`, which shows none of them, and are replaced by pseudonyms before anything
is written (`engine.privacy`).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifiers of a plane: as the file has them, or pseudonyms (`Header.hidden`)."""

    patient: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    frame_of_reference: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """Facts of one plane.

    Attributes
    ----------
    identity
        Whose it is.
    hidden
        Whether ``identity`` holds pseudonyms; nothing else is ever written.
    instance, frame
        InstanceNumber, and the frame's number in a file of several, from 0.
    position_mm
        Centre of the first pixel in the patient, mm (x, y, z of DICOM's patient system).
    orientation
        Directions of a row and of a column, unit vectors, six numbers.
    thickness_mm, distance_mm
        Of a slice; of slices from centre to centre. As the header says; positions count before.
    time_ms
        Time within the beat or the sequence, ms.
    order
        Temporal position, where the header numbers them.
    rescale
        (slope, intercept) from stored values to modality units; None where the header has neither.
    terms
        Further facts by name, as text: terms of the standard and numbers.
    findings
        Codes of what is odd, see `FINDINGS`.
    """

    identity: Identity
    hidden: bool = False
    instance: int | None = None
    frame: int | None = None
    position_mm: tuple[float, float, float] | None = None
    orientation: tuple[float, ...] | None = None
    thickness_mm: float | None = None
    distance_mm: float | None = None
    time_ms: float | None = None
    order: int | None = None
    rescale: tuple[float, float] | None = None
    terms: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()


SAME_PLACE_MM = 0.02
"""Positions along the normal that differ less are one slice."""

GAP, UNEVEN = 1.5, 0.02
"""A distance is a gap from so many usual ones on; distances are uneven beyond such a share."""

LEVEL_UM = "level_um"
"""Term: the pixel size of the level that a slide is read from, micrometres."""

SLICE_DISTANCE, SLICE_THICKNESS = "slice_distance_mm", "slice_thickness_mm"
"""Terms: what a header says of its slices, from centre to centre and each one; positions may say
otherwise."""

SLICE_GAP, GAP_BY_THICKNESS = "slice_gap", "slice_gap_by_thickness"
"""Findings of the series that lack slices, see `FINDINGS`."""

MISSING_PLANES = "missing_planes"
"""Finding of the series that lack planes, see `FINDINGS`."""


FINDINGS = {
    "study_date_invalid": "StudyDate is no date, e.g. 20120000.",
    "no_patient_id": "PatientID is missing or empty; the study stands for the patient.",
    "spacing_invalid": "The pixel spacing is no pair of positive numbers.",
    "spacing_at_detector": "The spacing holds at the detector, where what was imaged is magnified.",
    "spacing_by_magnification": "The spacing is the detector's over the estimated magnification.",
    "spacing_of_region": "The spacing holds in the ultrasound's 2-D regions, and not in others.",
    "spacing_differs": "Regions of the ultrasound have several spacings; none is taken.",
    "orientation_invalid": "The orientation is not two unit vectors at a right angle.",
    "rescale_partial": "Slope or intercept is missing; 1 or 0 stands for it.",
    "rescale_invalid": "Slope or intercept is no number; stored values are the units.",
    "modality_lut": "A table, not slope and intercept, leads to modality units; it is not applied.",
    "calibrated": "ImageJ's calibration is no slope and intercept that hold for all values; it is "
    "not applied.",
    "real_world_values": "A mapping to real-world values is there, and not applied.",
    "frame_of_reference_differs": "The series has planes of several frames of reference.",
    "mixed_geometry": "The series has planes of several sizes, spacings or orientations.",
    SLICE_GAP: "Slices are missing: a distance is 1.5 times the usual one or more, or the "
    "one that the header says (SpacingBetweenSlices).",
    GAP_BY_THICKNESS: "Slices seem to be missing: all are twice their thickness apart or more, and "
    "the header does not say that they should (no SpacingBetweenSlices).",
    "uneven_slices": "The distances of slices differ by more than 2 %.",
    "shifted_slices": "Slices are shifted within their plane by more than half a pixel.",
    "missing_planes": "The series lacks planes: some slices have fewer phases than others, or an "
    "OME file has no page for some, or names a file for them that is not beside it.",
    "duplicate_plane": "Another plane of the series has its position and time.",
    "copied_instance": "Another file has its SOPInstanceUID.",
    "oriented": "Viewers turn or mirror it (EXIF or TIFF orientation); pixels, and outlines drawn "
    "on them, are taken as stored.",
    "cmyk_by_profile": "Four inks, made RGB by the colour profile of the file.",
    "cmyk_by_rule": "Four inks without a profile, made RGB by (1 - ink) (1 - black).",
    "white_is_zero": "Smaller is brighter (WhiteIsZero, signed or float); values are as stored.",
    "sparse": "Tiles or strips that the file leaves out are its NoData value, or 0.",
    "counts_differ": "What ImageJ or tifffile counted does not fit the pages; each page is an "
    "image of its own.",
    "channels_elsewhere": "Other channels of the image are in other files, or missing.",
    "metadata_elsewhere": "What the pages are is said in another file of the OME set, or by a file "
    "name that was changed; each page is an image of its own.",
}
"""What may be odd about a plane, its series or its file, by code (column ``findings``)."""
