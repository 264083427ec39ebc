"""Explanations of reason codes: the cause of a failure, and the remedy."""

from __future__ import annotations

from engine.sources import REASONS

AGAIN = "Then: cohort run COHORT {operation} --failed"

HEAL = (
    "cohort ingest COHORT --rehash restores its pixels from its source. "
    "Then: cohort run COHORT {operation}"
)

OF_SOURCES = {
    "empty": "Copy the file again from its origin, then: cohort ingest COHORT",
    "not_an_image": "Correct its suffix, or move it out of the folder.",
    "truncated": "Copy the file again (the first copy was cut short), then: cohort ingest COHORT",
    "corrupt": "Copy the file again; if that does not help, it was damaged at its origin.",
    "too_large": "Raise max_decoded_bytes under [limits] in cohort.toml, or save it as tiled TIFF.",
    "unsupported": "Save it in another variant, e.g. as plain TIFF or PNG.",
    "out_of_memory": "Give workers more memory (--memory-limit); the next ingest retries it.",
    "unreadable": "Check the file's owner and mode, and its disk; the next ingest retries it.",
    "vanished": "Nothing, if it was meant to be deleted; the next ingest looks again.",
    "outside_root": "Copy the file itself into the folder, or ingest the folder it is in.",
    "link_loop": "Remove the link.",
    "not_a_file": "Move it out of the folder.",
}
"""Remedies for unreadable sources."""

OF_RESULTS = {
    "worker_crash": (
        "It crashed its worker three times, running alone.",
        "Give workers more memory (--memory-limit), or look at the image. " + AGAIN,
    ),
    "worker_crash_ingest": (
        "Decoding it crashed its worker.",
        "Save it again with another program, then: cohort ingest COHORT",
    ),
    "missing_pixels": (
        "Its stored pixels are missing.",
        HEAL,
    ),
    "corrupt_pixels": (
        "Its stored pixels are damaged.",
        HEAL,
    ),
    "no_such_channel": (
        "It has no channel of that number or name, or several of that name.",
        "Choose another --channel, or leave these images out with --where.",
    ),
    "channel_needed": (
        "It has several channels that are not colours, and none was chosen.",
        "Choose one: cohort run COHORT {operation} --channel 0",
    ),
    "spacing_needed": (
        "Sizes are given in micrometres, but it has no pixel spacing, or different ones along y "
        "and x.",
        "Give it in pixels (--radius-px, --diameter-px), or leave these images out with --where.",
    ),
    "radius_out_of_range": (
        "At its pixel spacing the range of radii begins below 1 pixel, or ends above a million.",
        "Give another range, or leave these images out with --where.",
    ),
    "diameter_out_of_range": (
        "At its pixel spacing the diameter is below 4 pixels, or above 1,000.",
        "Give another diameter, or leave these images out with --where.",
    ),
    "no_usable_values": (
        "All of its values are NaN, infinite or beyond 3e38.",
        "Leave it out with --where, or create the file again from its original data.",
    ),
    "other_channels": (
        "Its channels do not suit the operation, e.g. grey or stains instead of colours.",
        "Leave these images out with --where, or choose a --model whose card names such channels.",
    ),
    "other_values": (
        "Its grey levels have another scale than the model expects, e.g. 16 bits instead of 8.",
        "Save it at that scale, choose another --model, or import this one with a card that has "
        "the mean and sd of such pixels (cohort model import --card).",
    ),
    "values_not_finite": (
        "Some of its values are NaN, infinite or beyond 3e38.",
        "Leave it out with --where, or save it again with finite numbers there.",
    ),
    "other_pixel_size": (
        "Its pixel size differs from the model's.",
        "Ingest slides at the model's resolution ([slides] spacing_um in cohort.toml), or choose "
        "another --model.",
    ),
    "columns_of_different_length": (
        "The operation returned columns of different lengths.",
        "This is a bug of the operation, not a problem of the image; report it to its author.",
    ),
    "labels_are_a_mask": (
        "The operation returned a mask, which does not tell objects apart.",
        "Number the objects, e.g. by skimage.measure.label(mask).",
    ),
    "labels_of_another_shape": (
        "The operation returned labels of another size than the image that it was given.",
        "This is a bug of the operation: its labels need the height and width of the image.",
    ),
    "negative_labels": (
        "The operation returned negative labels.",
        "This is a bug of the operation: objects have positive numbers, and background is 0.",
    ),
    "answer_without_labels": (
        "The function returned columns without labels.",
        "Return the integer array itself, or a dict that has it as labels.",
    ),
    "upstream_failed": (
        "An operation whose results {operation} reads failed on it.",
        "Look at that operation's failure; once it succeeds, the next run computes this image.",
    ),
    "upstream_changed": (
        "The results that {operation} reads changed, or were lost, while it ran.",
        "Run that operation again, then: cohort run COHORT {operation} --failed",
    ),
    "out_of_memory": (
        "It needs more memory than its worker had.",
        "Give workers more memory (--memory-limit, or fewer workers and threads). " + AGAIN,
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
    code = code.partition(":")[0]  # of an upstream failure, the operation's name follows
    if code in OF_RESULTS:
        told, advice = OF_RESULTS[code]
        return told.format(operation=operation), advice.format(operation=operation)
    words = reason.replace("_", " ") or "no reason given"
    what = "Reading" if of_source else "The operation"
    return (
        f"{what} failed with: {words}.",
        "Try it on this image alone, in Python: "
        f'cohort.operation("{operation}")(cohort.images().by_id(IMAGE_ID))',
    )
