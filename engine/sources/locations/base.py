"""Where sources lie: a folder, a prefix of an object store, or a PACS, all asked in one way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.sources.locations.dicomweb import (
    holds_studies,
    is_dicomweb,
    open_instance,
    walk_instances,
)
from engine.sources.locations.folder import FileStat, look_at_file, open_file, walk_files
from engine.sources.locations.object_store import (
    is_bucket,
    look_at_object,
    open_object,
    walk_objects,
)


class Place(Protocol):
    """A root: where files are listed, opened, and looked at again.

    Paths are relative to it and escaped as `FileStat.path` is.
    """

    def is_there(self) -> bool:
        """Tell whether it can be listed at all; a disk may not be mounted."""

    def is_empty(self) -> bool:
        """Tell whether nothing is in it."""

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """Yield each file below a part of it, once; see `walk_files`."""

    def open(self, path: str) -> BinaryIO:
        """Open a listed file; what is wrong with it is a `SourceUnreadable`."""

    def look(self, path: str) -> FileStat | None:
        """Return how a file looks now, or None where it is gone.

        Raises
        ------
        SourceUnreadable
            Where that can't be known now.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine, or one that is mounted."""

    path: str

    def is_there(self) -> bool:
        """Tell whether it is a folder that answers; whether it may be listed the walk says."""
        try:
            return stat.S_ISDIR(os.stat(self.path).st_mode)  # noqa: PTH116
        except PermissionError:
            return True
        except OSError:  # also of a share that went stale
            return False

    def is_empty(self) -> bool:
        """Tell whether nothing is in it; what is wrong with it the walk names."""
        try:
            return next(Path(self.path).iterdir(), None) is None
        except OSError:
            return False

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """See `walk_files`."""
        return walk_files(Path(self.path), below)

    def open(self, path: str) -> BinaryIO:
        """See `open_file`."""
        return open_file(Path(self.path), path)

    def look(self, path: str) -> FileStat | None:
        """See `look_at_file`."""
        return look_at_file(Path(self.path), path)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of an object store."""

    path: str

    def is_there(self) -> bool:
        """Say that it is: there are no empty folders, and a store that is away is an error."""
        return True

    def is_empty(self) -> bool:
        """Tell whether no object lies below it."""
        return next(self.walk(), None) is None

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """See `walk_objects`."""
        return walk_objects(self.path, below)

    def open(self, path: str) -> BinaryIO:
        """See `open_object`."""
        return open_object(self.path, path)

    def look(self, path: str) -> FileStat | None:
        """See `look_at_object`."""
        return look_at_object(self.path, path)


@dataclass(frozen=True, slots=True)
class Service:
    """A DICOMweb service; an instance never changes."""

    path: str

    def is_there(self) -> bool:
        """Say that it is: one that does not answer is an error."""
        return True

    def is_empty(self) -> bool:
        """Tell whether it has no study."""
        return not holds_studies(self.path)

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """See `walk_instances`; it is always all of them."""
        return walk_instances(self.path)

    def open(self, path: str) -> BinaryIO:
        """See `open_instance`."""
        return open_instance(self.path, path)

    def look(self, path: str) -> FileStat | None:
        """Return what `walk` says of every instance."""
        return FileStat(path, 0, 0, 0)


def place_at(path: str) -> Place:
    """Return the root at a path or URL; nothing is read."""
    if is_dicomweb(path):
        return Service(path)
    return Bucket(path) if is_bucket(path) else Folder(path)


def absolute(path: str | Path) -> str:
    """Return a path without ``..``, from the root of the file system; no link is followed.

    Examples
    --------
    >>> absolute("s3://bucket/nights/"), absolute("/data/../nights")
    ('s3://bucket/nights', '/nights')
    """
    if is_bucket(str(path)):
        return str(path).rstrip("/")
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def holder_of(path: str) -> str | None:
    """Return the folder or prefix that a path is, or that holds it; None where nothing is there.

    Examples
    --------
    >>> holder_of("/no/such/file") is None
    True
    """
    if is_bucket(path):
        above, _, name = path.rstrip("/").rpartition("/")
        found = None if above.endswith("/") else place_at(above).look(name)
        if found is not None:
            return above
        return None if place_at(path).is_empty() else path
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a share went stale
        return None
    return path if os.path.isdir(path) else str(Path(path).parent)  # noqa: PTH112
