"""Header of a medical image's plane: catalogued facts, and the patient's identity.

Facts are only numbers and terms that the standard enumerates, never free text of a file.
Identifiers are kept apart in `PatientIdentity`, whose repr hides them, and are replaced by
pseudonyms before anything is written (`engine.privacy`).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """Identifiers of a plane: original, or pseudonyms (`Header.pseudonymised`)."""

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
        Identity of the patient, study and image.
    pseudonymised
        True if ``identity`` holds pseudonyms; only these are ever written.
    instance, frame
        InstanceNumber, and the frame's number in a file of several, from 0.
    position_mm
        Centre of the first pixel in the patient, mm (x, y, z of DICOM's patient system).
    orientation
        Directions of a row and of a column, unit vectors, six numbers.
    thickness_mm, distance_mm
        Slice thickness, and distance between slice centres, as the header states them; positions
        take precedence.
    time_ms
        Time within the beat or the sequence, ms.
    order
        Temporal position, if the header numbers them.
    rescale
        (slope, intercept) from stored values to modality units; None if the header has neither.
    terms
        Further facts by name, as text: terms of the standard and numbers.
    findings
        Codes of oddities, see `FINDINGS`.
    """

    identity: PatientIdentity
    pseudonymised: bool = False
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
"""Maximum distance along the normal of positions in one slice, mm."""

GAP, UNEVEN = 1.5, 0.02
"""Ratio of a distance to the usual one that makes a gap; relative difference of distances that
makes them uneven."""

LEVEL_UM = "level_um"
"""Term: the pixel size of a slide's level that is read, micrometres."""

SLICE_DISTANCE, SLICE_THICKNESS = "slice_distance_mm", "slice_thickness_mm"
"""Terms: the header's distance between slice centres, and slice thickness; positions may differ."""

SLICE_GAP, GAP_BY_THICKNESS = "slice_gap", "slice_gap_by_thickness"
"""Findings of series with missing slices, see `FINDINGS`."""

MISSING_PLANES = "missing_planes"
"""Finding of series with missing planes, see `FINDINGS`."""


FINDINGS = {
    "study_date_invalid": "StudyDate is not a date, e.g. 20120000.",
    "no_patient_id": "PatientID is missing or empty; the study stands for the patient.",
    "spacing_invalid": "The pixel spacing is not a pair of positive numbers.",
    "unit_assumed": "The file names no unit of length; its spacing is taken as millimetres.",
    "spacing_at_detector": "The spacing holds at the detector, where the object is magnified.",
    "spacing_by_magnification": "The spacing is the detector's over the estimated magnification.",
    "spacing_of_region": "The spacing holds in the ultrasound's 2-D regions, and not in others.",
    "spacing_differs": "Regions of the ultrasound have several spacings; none is used.",
    "orientation_invalid": "The orientation is not two unit vectors at a right angle.",
    "rescale_partial": "Slope or intercept is missing; 1 or 0 stands for it.",
    "rescale_invalid": "Slope or intercept is not a number; stored values are the units.",
    "modality_lut": "A table, not slope and intercept, leads to modality units; it is not applied.",
    "calibrated": "ImageJ's calibration is not a slope and an intercept for all values; it is "
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
    MISSING_PLANES: "The series lacks planes: some slices have fewer phases than others, or an "
    "OME file has no page for some, or names a file for them that is not beside it.",
    "duplicate_plane": "Another plane of the series has its position and time.",
    "copied_instance": "Another file has its SOPInstanceUID.",
    "oriented": "Viewers turn or mirror it (EXIF or TIFF orientation); pixels, and outlines drawn "
    "on them, are taken as stored.",
    "cmyk_by_profile": "Four inks, made RGB by the colour profile of the file.",
    "cmyk_by_rule": "Four inks without a profile, made RGB by (1 - ink) (1 - black).",
    "white_is_zero": "Smaller is brighter (WhiteIsZero, signed or float); values are as stored.",
    "sparse": "Tiles or strips that the file leaves out are its NoData value, or 0.",
    "counts_differ": "The counts of ImageJ or tifffile do not fit the pages; each page is an image "
    "of its own.",
    "channel_names_differ": "The root's channels in cohort.toml are not as many as the image has; "
    "they are not used.",
    "channels_elsewhere": "Other channels of the image are in other files, or missing.",
    "metadata_elsewhere": "Another file of the OME set describes the pages, or the file was "
    "renamed; each page is an image of its own.",
}
"""Oddities of a plane, its series or its file, by code (column ``findings``)."""
