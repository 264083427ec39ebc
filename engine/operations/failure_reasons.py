"""Explanations of reason codes: the cause of a failure, and the remedy."""

from __future__ import annotations

from engine.sources import REASONS

AGAIN = "Then: cohort run COHORT {operation} --failed"

HEAL = (
    "cohort ingest COHORT --rehash writes its pixels anew from its source. "
    "Then: cohort run COHORT {operation}"
)

OF_SOURCES = {
    "empty": "Copy the file again from where it was made, then: cohort ingest COHORT",
    "not_an_image": "Give it the suffix of what it is, or move it out of the folder.",
    "truncated": "Copy the file again (the first copy was cut short), then: cohort ingest COHORT",
    "corrupt": "Copy the file again; if it stays so, it was damaged where it was made.",
    "too_large": "Raise max_decoded_bytes under [limits] in cohort.toml, or save it as tiled TIFF.",
    "unsupported": "Save it in another variant, e.g. as plain TIFF or PNG.",
    "out_of_memory": "Give workers more (--memory-limit); the next ingest tries it again.",
    "unreadable": "Check the file's owner and mode, and its disk; the next ingest tries it again.",
    "vanished": "Nothing, if it was meant to be deleted; the next ingest looks again.",
    "outside_root": "Copy the file itself into the folder, or ingest the folder it is in.",
    "link_loop": "Remove the link.",
    "not_a_file": "Move it out of the folder.",
}
"""Remedies for unreadable sources."""

OF_RESULTS = {
    "worker_crash": (
        "Computing it ended its worker, alone and three times.",
        "Give workers more memory (--memory-limit), or look at the image. " + AGAIN,
    ),
    "worker_crash_ingest": (
        "Decoding it ended its worker.",
        "Save it anew with another program, then: cohort ingest COHORT",
    ),
    "missing_pixels": (
        "Its stored pixels are not there.",
        HEAL,
    ),
    "corrupt_pixels": (
        "Its stored pixels are damaged.",
        HEAL,
    ),
    "no_such_channel": (
        "It has no channel of that number.",
        "Choose another --channel, or leave these images out with --where.",
    ),
    "channel_needed": (
        "It has several channels that are no colours, and none was chosen.",
        "Choose one: cohort run COHORT {operation} --channel 0",
    ),
    "spacing_needed": (
        "Sizes are asked for in micrometres, and it has no pixel spacing, or another along y than "
        "along x.",
        "Give a range in pixels (--radius-px), or leave these images out with --where.",
    ),
    "radius_out_of_range": (
        "At its pixel spacing the range of radii begins below 1 pixel, or ends above a million.",
        "Give another range, or leave these images out with --where.",
    ),
    "no_usable_values": (
        "All of its values are NaN, infinite or beyond 3e38.",
        "Leave it out with --where, or write it anew from what it was made of.",
    ),
    "other_channels": (
        "It has other channels than what was asked was made for, e.g. grey or "
        "stains instead of colours.",
        "Leave these images out with --where, or ask for a --model whose card names such channels.",
    ),
    "other_values": (
        "Its grey levels are of another scale than those that the model was made for, e.g. of 16 "
        "bits for one of 8.",
        "Save it at that scale, ask for another --model, or import this one with a card that has "
        "the mean and sd of such pixels (cohort model import --card).",
    ),
    "values_not_finite": (
        "Some of its values are NaN, infinite or beyond 3e38.",
        "Leave it out with --where, or write it anew with a number there.",
    ),
    "other_pixel_size": (
        "Its pixels are of another size than those that the model was made for.",
        "Ingest slides at the model's resolution ([slides] spacing_um in cohort.toml), or ask for "
        "another --model.",
    ),
    "columns_of_different_length": (
        "The operation gave columns of different lengths.",
        "A fault of the operation, not of the image; report it to its author.",
    ),
    "out_of_memory": (
        "It needs more memory than its worker had.",
        "Give workers more (--memory-limit, or fewer workers and threads). " + AGAIN,
    ),
}
"""Cause and remedy of each failure of an operation."""


def explain(reason: str, operation: str, *, of_source: bool) -> tuple[str, str]:
    """Return the meaning of a reason code and the remedy, a sentence each.

    Parameters
    ----------
    of_source
        Whether reading the source failed; else the operation failed.

    Examples
    --------
    >>> explain("zero_division_error", "circles", of_source=False)[0]
    'The operation failed with: zero division error.'
    """
    if of_source and reason in OF_SOURCES:
        return REASONS[reason], OF_SOURCES[reason]
    code = f"{reason}_ingest" if of_source and reason == "worker_crash" else reason
    if code in OF_RESULTS:
        told, advice = OF_RESULTS[code]
        return told, advice.format(operation=operation)
    words = reason.replace("_", " ") or "no reason given"
    what = "Reading" if of_source else "The operation"
    return (
        f"{what} failed with: {words}.",
        "Try it on this image alone, in Python: "
        f'cohort.operation("{operation}")(cohort.images().by_id(IMAGE_ID))',
    )
