"""Pictures for quality control: files named by content, and an index of them.

A picture is written once under a name that holds the digest of its bytes. A new version is written
beside the old one, so that an open page stays complete; pictures without an index entry are
leftovers. All pictures can be made again at any time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import AlreadyExists, CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.digests import DIGEST_CHARS, digest_bytes
from engine.store.parquet import read_parquet, write_parquet
from engine.store.rows import Int32, rows_of, schema_of, table_of

FOLDER = "qc"
INDEX = "index.html"
NOTE = ".note"

OVERLAYS, THUMBS, MONTAGES, EXPERIMENTS = "overlays", "thumbs", "montages", "experiments"

SLUG_CHARS = 48
"""Maximum number of characters of a name in a file's name, for people to recognise it."""

_PICTURE = re.compile(
    rf"{FOLDER}/(?P<folder>[^/]+)/(?:[a-z]+)/(?:[\w-]+/)?[\w-]+-(?P<digest>[0-9a-f]{{32}})"
    r"\.(?:jpg|html)",
    re.ASCII,
)

OVERLAY, MONTAGE, PAGE = "overlay", "montage", "page"
"""Kinds of index entries."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Index entry of one picture.

    Attributes
    ----------
    kind, name
        Subject of the picture: an image by its image_id, or an experiment.
    made_of
        Digest of all inputs of the picture; it is made again if this changes.
    path, size
        The file, relative to the folder of pictures, and its size, bytes.
    thumb, thumb_size
        Thumbnail of the picture; "" if it has none.
    height, width
        Size of the file, pixels.
    low, high
        Grey values shown as black and white; None for RGB, which is shown unchanged.
    outlines
        Number of outlines; ``labels`` are their kinds, in the order of their colours.
    scale
        Pixels of the image per pixel of the picture.
    """

    kind: str
    name: str
    made_of: str
    path: str
    size: int
    thumb: str = ""
    thumb_size: int = 0
    height: Int32 = 0
    width: Int32 = 0
    low: float | None = None
    high: float | None = None
    outlines: int = 0
    labels: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Files of the picture and their sizes."""
        both = ((self.path, self.size), (self.thumb, self.thumb_size))
        return tuple((path, size) for path, size in both if path)


SCHEMA = schema_of(Picture)

PictureIndex = dict[tuple[str, str], Picture]
"""Pictures by kind and name."""


def slug(text: str) -> str:
    """Convert any text to a short name that is valid on every file system.

    Examples
    --------
    >>> slug("2018-03-01 s1/exp 1"), slug("<script>"), slug("")
    ('2018-03-01-s1-exp-1', 'script', '_')
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:SLUG_CHARS].strip("-")
    return plain or "_"


def folder_of(operation: str, suffix: str = "") -> str:
    """Return the folder of an operation's pictures; ``suffix`` is "@<key8>" for a trial."""
    return f"{FOLDER}/{operation}{suffix}"


def publish_picture(store: Store, folder: str, path: str, data: bytes, ending: str = "jpg") -> str:
    """Write a picture under a name that holds the digest of its bytes, and return the name.

    Parameters
    ----------
    folder
        Folder of the operation's pictures.
    path
        Beginning of the name, relative to the folder.
    """
    name = f"{path}-{digest_bytes(data)}.{ending}"
    place = f"{folder}/{name}"
    try:
        store.create(place, data)
    except AlreadyExists:  # it has the same content, unless it was damaged
        if store.read(place) != data:
            store.replace(place, data)
    return name


def index_bytes(pictures: Iterable[Picture]) -> bytes:
    """Return the bytes of an index: the digest of the rest, and a Parquet table."""
    rows = sorted(pictures, key=lambda picture: (picture.kind, picture.name))
    data = write_parquet(table_of(rows, Picture))
    return digest_bytes(data).encode() + data


def parse_index(raw: bytes, path: str) -> PictureIndex:
    """Parse and check an index.

    Raises
    ------
    CorruptStore
        If its bytes do not match its digest.
    """
    data = raw[DIGEST_CHARS:]
    if digest_bytes(data).encode() != raw[:DIGEST_CHARS]:
        raise CorruptStore(path, "its bytes do not match its digest; cohort qc makes it again")
    found = rows_of(read_parquet(data), Picture)
    return {(picture.kind, picture.name): picture for picture in found}


def read_picture_index(store: Store, folder: str) -> PictureIndex:
    """Return the pictures in an index, none if no index exists.

    Raises
    ------
    CorruptStore
    """
    path = f"{folder}/{NOTE}"
    try:
        return parse_index(store.read(path), path)
    except MissingObject:
        return {}


def write_picture_index(
    store: Store, folder: str, noted: PictureIndex, known: PictureIndex
) -> None:
    """Update the index; keep the entries that another writer added since ``known`` was read.

    Parameters
    ----------
    noted
        Current pictures.
    known
        Index at the start of the work.
    """
    path = f"{folder}/{NOTE}"

    def change(raw: bytes | None) -> bytes | None:
        others: PictureIndex = {}
        if raw is not None:
            with contextlib.suppress(CorruptStore):  # replace a broken index like a missing one
                others = parse_index(raw, path)
        added = {name: one for name, one in others.items() if known.get(name) != one}
        new = index_bytes({**added, **noted}.values())
        return None if new == raw else new

    store.update(path, change)


def folders_there(store: Store) -> list[str]:
    """Return the folders of pictures of a cohort."""
    names = {entry.path.split("/")[1] for entry in store.list(f"{FOLDER}/")}
    return [f"{FOLDER}/{name}" for name in sorted(names)]


def files_there(store: Store, folder: str) -> dict[str, int]:
    """Return the files of a folder of pictures with their sizes, paths relative to it."""
    return {entry.path[len(folder) + 1 :]: entry.size for entry in store.list(f"{folder}/")}


def is_there(picture: Picture, files: Mapping[str, int]) -> bool:
    """Return True if all files of a picture exist with their full size."""
    return all(files.get(path) == size for path, size in picture.files)


def folder_of_picture(path: str) -> str | None:
    """Return the folder of a picture, or None if the engine did not name the file.

    Examples
    --------
    >>> folder_of_picture("qc/circles/overlays/a/b-" + 32 * "0" + ".jpg")
    'qc/circles'
    >>> folder_of_picture("qc/circles/mine.jpg") is None
    True
    """
    match = _PICTURE.fullmatch(path)
    return None if match is None else f"{FOLDER}/{match['folder']}"


def digest_in(path: str) -> str:
    """Return the digest in a picture's name."""
    return path.rsplit("-", 1)[-1].split(".", 1)[0]


def paths_of(pictures: Iterable[Picture], folder: str) -> frozenset[str]:
    """Return the paths of all files of some pictures, relative to the cohort."""
    return frozenset(f"{folder}/{path}" for one in pictures for path, _ in one.files)


def append_digest(page: str) -> bytes:
    """Return the bytes of a page, with the digest of the text appended."""
    data = page.encode()
    return data + f"<!-- digest {digest_bytes(data)} -->\n".encode()


def check_page(data: bytes) -> str | None:
    """Return the problem of a page's bytes, or None.

    Examples
    --------
    >>> check_page(append_digest("<p>all</p>")), check_page(b"<p>all</p>")
    (None, 'its bytes do not match its digest')
    """
    at = data.rfind(b"<!-- digest ")
    if at >= 0 and append_digest(data[:at].decode(errors="replace")) == data:
        return None
    return "its bytes do not match its digest"
