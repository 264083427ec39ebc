"""DICOM: headers, frames, codecs, values, whole slides, mosaics."""
