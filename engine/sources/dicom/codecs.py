"""Codecs missing in pydicom's own decoders: 12-bit JPEG and High-Throughput JPEG 2000.

A plugin for `pydicom.pixels.decoders`, which calls `decode_frame` if all other plugins fail. GDCM's
binding refuses JPEG of 12 bits, and HTJ2K needs packages outside our dependencies; imagecodecs,
which TIFF needs anyway, has both (libjpeg-turbo 3 and OpenJPEG 2.5).
"""

from __future__ import annotations

from typing import Any

import imagecodecs
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import HTJ2K as HTJ2K_LOSSY
from pydicom.uid import UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEGExtended12Bit

NAME = "imagecodecs"
"""Name of the plugin in pydicom."""

_EOI = b"\xff\xd9"
_HTJ2K = (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K_LOSSY)

DECODER_DEPENDENCIES = dict.fromkeys((JPEGExtended12Bit, *_HTJ2K), ("imagecodecs",))
"""Missing packages for pydicom's error messages."""


def is_available(uid: UID) -> bool:
    """Return True if a transfer syntax can be decoded here."""
    codec = imagecodecs.JPEG8 if uid == JPEGExtended12Bit else imagecodecs.JPEG2K
    return uid in DECODER_DEPENDENCIES and bool(codec.available)


def decode_frame(src: bytes, runner: Any) -> bytes:
    """Return a frame's pixels, in the word size that the data set allocates.

    Raises
    ------
    ValueError
        If a JPEG lacks its end: libjpeg would fill the rest with grey.
    """
    if runner.transfer_syntax == JPEGExtended12Bit:
        if not src.rstrip(b"\0\xff").endswith(_EOI):
            raise ValueError("the codestream has no end")
        pixels = imagecodecs.jpeg8_decode(src)
    else:
        pixels = imagecodecs.jpeg2k_decode(src)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    if pixels.ndim > 2:
        runner.set_option("planar_configuration", 0)
    return bytes(pixels.astype(f"<{pixels.dtype.kind}{runner.bits_allocated // 8}").tobytes())


def add_plugin() -> None:
    """Register this module with pydicom's decoders. May be called more than once."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if NAME not in decoder.available_plugins:
            decoder.add_plugin(NAME, (__name__, "decode_frame"))
