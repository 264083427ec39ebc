"""Compressors and codec pipelines of Zarr arrays.

Importing Zarr is slow, so only functions that open arrays import this module.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, StorePath

ZSTD: tuple[BytesBytesCodec, ...] = (ZstdCodec(level=1, checksum=True),)
"""For bytes, and for labels. Pixels are noisy: higher levels cost much and save little."""


def pixel_codecs(dtype: str) -> tuple[BytesBytesCodec, ...]:
    """Return the compressors of pixels of a data type.

    Values of two bytes and more are shuffled: their upper bytes hardly change from pixel to pixel.
    Once these are adjacent, LZ4 compresses real 16-bit images to a tenth less than zstd does, and
    decodes them three times as fast. Single bytes of noise need zstd's entropy coder.
    """
    itemsize = np.dtype(dtype).itemsize
    if itemsize == 1:
        return ZSTD
    return (BloscCodec(typesize=itemsize, cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec())


PIPELINE = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    "codec_pipeline.chunk_concurrent_maximum": 1,  # a worker must not use all cores
    "threading.max_workers": 1,
}
OBJECT_PIPELINE = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
"""For object stores: zarrs knows few of them and warns that it shares no connections. Reading from
memory, the two differ by a factor of 1.5, which is small beside a network's latency."""

_CONFIG = threading.Lock()
"""Lock for Zarr's settings, which are global to the process and choose an array's pipeline."""


def open_array(place: Path | Store | StorePath, mode: Literal["r", "r+"]) -> zarr.Array[Any]:
    """Open an array in a folder or a store, with the codec pipeline that reads it fastest."""
    store = LocalStore(place) if isinstance(place, Path) else place
    pipeline = PIPELINE if isinstance(store, LocalStore) else OBJECT_PIPELINE
    with _CONFIG, zarr.config.set(pipeline):
        return zarr.open_array(store, mode=mode)
