"""Locations of sources with a common interface: folders, prefixes of object stores, and PACS."""

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
from engine.sources.locations.folder import FileStat, open_file, stat_file, walk_files
from engine.sources.locations.object_store import (
    is_bucket,
    open_object,
    stat_object,
    walk_objects,
)


class SourceLocation(Protocol):
    """Location of sources: lists, opens and stats files.

    Paths are relative to it, and escaped as in `FileStat.path`.
    """

    def exists(self) -> bool:
        """Return True if the location can be listed; a disk may not be mounted."""

    def is_empty(self) -> bool:
        """Return True if the location is empty."""

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """Yield each file below a path of the location once; see `walk_files`."""

    def open(self, path: str) -> BinaryIO:
        """Open a listed file; failures are raised as `SourceUnreadable`."""

    def stat(self, path: str) -> FileStat | None:
        """Return the current state of a file, or None if it no longer exists.

        Raises
        ------
        SourceUnreadable
            If the state can't be determined at this time.
        """


@dataclass(frozen=True, slots=True)
class FolderLocation:
    """Folder of this machine, or a mounted one."""

    path: str

    def exists(self) -> bool:
        """Return True if it is a reachable folder; the walk reports a denied listing."""
        try:
            return stat.S_ISDIR(os.stat(self.path).st_mode)  # noqa: PTH116
        except PermissionError:
            return True
        except OSError:  # also of a stale network share
            return False

    def is_empty(self) -> bool:
        """Return True if the folder is empty; the walk reports any error."""
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

    def stat(self, path: str) -> FileStat | None:
        """See `stat_file`."""
        return stat_file(Path(self.path), path)


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """Prefix of an object store."""

    path: str

    def exists(self) -> bool:
        """Return True: an object store has no empty folders, and an unreachable one is an error."""
        return True

    def is_empty(self) -> bool:
        """Return True if the prefix has no objects."""
        return next(self.walk(), None) is None

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """See `walk_objects`."""
        return walk_objects(self.path, below)

    def open(self, path: str) -> BinaryIO:
        """See `open_object`."""
        return open_object(self.path, path)

    def stat(self, path: str) -> FileStat | None:
        """See `stat_object`."""
        return stat_object(self.path, path)


@dataclass(frozen=True, slots=True)
class DicomWebLocation:
    """DICOMweb service; its instances never change."""

    path: str

    def exists(self) -> bool:
        """Return True: an unreachable service is an error."""
        return True

    def is_empty(self) -> bool:
        """Return True if the service has no studies."""
        return not holds_studies(self.path)

    def walk(self, below: str = "") -> Iterator[FileStat]:
        """Yield all instances, for any ``below``; see `walk_instances`."""
        return walk_instances(self.path)

    def open(self, path: str) -> BinaryIO:
        """See `open_instance`."""
        return open_instance(self.path, path)

    def stat(self, path: str) -> FileStat | None:
        """Return the same state as `walk` for every instance."""
        return FileStat(path, 0, 0, 0)


def open_location(path: str) -> SourceLocation:
    """Return the location at a path or URL, without any access to it."""
    if is_dicomweb(path):
        return DicomWebLocation(path)
    return BucketLocation(path) if is_bucket(path) else FolderLocation(path)


def absolute_path(path: str | Path) -> str:
    """Return a path without ``..``, from the root of the file system; links are not followed.

    Examples
    --------
    >>> absolute_path("s3://bucket/nights/"), absolute_path("/data/../nights")
    ('s3://bucket/nights', '/nights')
    """
    if is_bucket(str(path)):
        return str(path).rstrip("/")
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def containing_folder(path: str) -> str | None:
    """Return a path that is a folder or prefix, else its containing one; None if it is missing.

    Examples
    --------
    >>> containing_folder("/no/such/file") is None
    True
    """
    if is_bucket(path):
        above, _, name = path.rstrip("/").rpartition("/")
        found = None if above.endswith("/") else open_location(above).stat(name)
        if found is not None:
            return above
        return None if open_location(path).is_empty() else path
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a share went stale
        return None
    return path if os.path.isdir(path) else str(Path(path).parent)  # noqa: PTH112
