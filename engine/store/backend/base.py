"""Storage of a cohort: a folder, or a prefix of an object store.

Objects are published whole under their final names; no method changes one in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.errors import ParameterError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore
    from zarr.storage import StorePath

STAGING = ".staging"
"""Folder below the store for unpublished files; killed writers leave theirs there."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Listing entry of an object: path relative to the store (posix), size in bytes, and time."""

    path: str
    size: int
    modified_s: float


class Store(Protocol):
    """Storage of a cohort. Small, picklable (workers reopen it) and thread-safe.

    Paths are relative to the store, with slashes. Every method refuses a path that leaves the store
    with `ParameterError`. Refusals and failures of the store are raised as a `StoreError`. A failed
    write has no visible effect, unless the failure came after it (a lost answer, a folder that
    could not be synced).
    """

    @property
    def url(self) -> str:
        """Absolute path of the folder, or URL of the prefix, without a slash at its end."""
        ...

    def __hash__(self) -> int: ...

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of an object, or a part of them; fewer if the object ends earlier.

        Raises
        ------
        MissingObject
        """
        ...

    def size(self, path: str) -> int | None:
        """Return an object's size, bytes, or None if it does not exist."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects below a folder (a path that ends with a slash, or ``""``)."""
        ...

    def create(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Publish a new object durably and atomically.

        Parameters
        ----------
        durable
            False for objects that can be recomputed: do not wait for the disk; a power cut may lose
            or tear the object.

        Raises
        ------
        AlreadyExists
            If the object exists. Exactly one of several concurrent writers succeeds.
        """
        ...

    def create_from(self, path: str, local_file: Path) -> None:
        """Publish a finished local file, e.g. from `staging`, like `create`.

        A local root moves the file itself, so that it no longer exists at its old path.
        """
        ...

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Publish an object durably and atomically, replacing any existing one."""
        ...

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        """Update an object by compare-and-swap, so that concurrent updates are never lost.

        Parameters
        ----------
        path
            Path of the object.
        change
            Maps the old bytes (None if the object does not exist) to the new ones, or to None to
            leave the object as it is. It may be called again after a conflict, and must neither
            update anything itself nor write ``path`` by other means.

        Returns
        -------
        True if the object was written.

        Raises
        ------
        Conflict
            If other writers won every attempt.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove an object if it exists."""
        ...

    def staging(self) -> AbstractContextManager[Path]:
        """Create a private local folder for files in preparation, and remove it afterwards.

        If the folder is not writable, errors of the block are raised as `StoreFull` or
        `StoreReadOnly`, whichever error a library raised.
        """
        ...

    def as_zarr_store(self, path: str, read_only: bool = True) -> ZarrStore | StorePath:
        """Return the Zarr store of the array or group at a path."""
        ...

    def delta_location(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the URI and the storage options of a table for deltalake."""
        ...

    def as_local_path(self, path: str) -> Path | None:
        """Return the local path of an object or folder, or None if the storage is remote."""
        ...

    def as_store_error(
        self, error: BaseException, path: str, *, reading: bool = False
    ) -> StoreError | None:
        """Translate another library's error (Delta, Zarr) into the store's refusal or failure.

        Returns
        -------
        None if the error is about something else, such as damaged bytes.
        """
        ...

    def require_conditions(self) -> None:
        """Refuse a store without conditional puts; checked once, when a cohort is created.

        Raises
        ------
        NoConditionalPuts
        """
        ...


def check_path(path: str) -> None:
    """Refuse a path that does not name an object below the store.

    Raises
    ------
    ParameterError

    Examples
    --------
    >>> check_path("tables/circles.parquet")
    >>> check_path("../b")
    Traceback (most recent call last):
    ...
    engine.errors.ParameterError: path is '../b', but must be a relative path inside the cohort.
    """
    # Windows clients of the same share take a backslash for a folder separator.
    odd = "\0" in path or "\\" in path
    if odd or any(part in ("", ".", "..") for part in path.split("/")):
        raise ParameterError("path", path, "a relative path inside the cohort")


def as_folder(path: str) -> str:
    """Return the checked path of a folder, with a slash at its end; ``""`` is the store itself.

    Examples
    --------
    >>> as_folder("a/b"), as_folder("a/b/"), as_folder("")
    ('a/b/', 'a/b/', '')
    """
    if not path:
        return ""
    folder = path.removesuffix("/")
    check_path(folder)
    return folder + "/"
