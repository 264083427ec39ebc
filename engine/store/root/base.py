"""Where a cohort's bytes live: a folder, or a prefix of an object store.

Objects are published whole under their final names; nothing here ever changes one in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store
from zarr.storage import StorePath

from engine.errors import ParameterError, StoreError

STAGING = ".staging"
"""Folder below a root where things are written aside, and where a killed writer's remain."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as listed: its path relative to the root (posix), size in bytes, and age."""

    path: str
    size: int
    modified_s: float


class Root(Protocol):
    """Where a cohort lives. Small, picklable (workers reopen it) and safe with threads.

    Paths are relative to the root, with slashes. One that would leave it is refused with
    `ParameterError` by every method. What the store refuses or fails to do is raised as the
    `StoreError` that says so; of a write, nothing is visible then that was not before, unless what
    failed came after it (an answer that was lost, a folder that could not be synced).
    """

    @property
    def url(self) -> str:
        """The folder's absolute path, or the URL of the prefix, without a slash at its end."""
        ...

    def __hash__(self) -> int: ...

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of an object, or a part of them; fewer where it ends before.

        Raises
        ------
        MissingObject
        """
        ...

    def size(self, path: str) -> int | None:
        """Return an object's size, bytes, or None where it is not there."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield all objects below a folder (a path that ends with a slash, or ``""``)."""
        ...

    def create(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Publish an object that is not there yet: durable, and all or nothing.

        Parameters
        ----------
        durable
            False for what can be made again: it may be gone or torn after a loss of power, and
            nobody waits for a disk.

        Raises
        ------
        AlreadyExists
            If it is there. Of several writers exactly one succeeds.
        """
        ...

    def create_from(self, path: str, local_file: Path) -> None:
        """Do as `create` does with a file that was made aside, e.g. in `staging`.

        A local root takes the file itself, which is then no longer at its old place.
        """
        ...

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Publish an object in place of what may be there: durable, and all or nothing."""
        ...

    def replace_from(self, path: str, local_file: Path) -> None:
        """Do as `replace` does with a file that was made aside; see `create_from`."""
        ...

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        """Change an object by what it holds now; of two writers, one changes what the other left.

        Parameters
        ----------
        path
            What to change.
        change
            Gives the new bytes for the old ones (None where the object is not there), or None to
            leave all as it is. It may be called again after another writer came first, and must
            neither update anything itself nor write ``path`` by other means.

        Returns
        -------
        Whether it was written.

        Raises
        ------
        Conflict
            If others came first very often.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        ...

    def staging(self) -> AbstractContextManager[Path]:
        """Give a private local folder to assemble files in, removed afterwards.

        Errors that leave the block are raised as `StoreFull` or `StoreReadOnly` where the folder
        can't be written to, whatever a library made of that.
        """
        ...

    def zarr_store(self, path: str, read_only: bool = True) -> Store | StorePath:
        """Return what Zarr opens the array or group at a path from."""
        ...

    def delta(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the URI and the storage options with which deltalake opens a table."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Return where an object or folder is, or None where there are no local files."""
        ...

    def refusal(
        self, error: BaseException, path: str, *, reading: bool = False
    ) -> StoreError | None:
        """Name what another library (Delta, Zarr) says of the store when it refuses or fails.

        Returns
        -------
        None where the error is about something else, such as damaged bytes.
        """
        ...

    def require_conditions(self) -> None:
        """Refuse a store where of two writers both would win; asked once, when a cohort is made.

        Raises
        ------
        NoConditionalPuts
        """
        ...


def check_path(path: str) -> None:
    """Refuse a path that is not one of an object below a root.

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
    # A backslash separates folders for who opens the same share from Windows.
    odd = "\0" in path or "\\" in path
    if odd or any(part in ("", ".", "..") for part in path.split("/")):
        raise ParameterError("path", path, "a relative path inside the cohort")


def as_folder(path: str) -> str:
    """Return a checked path of a folder, with a slash at its end; ``""`` is the root.

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
