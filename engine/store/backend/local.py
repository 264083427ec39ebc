"""Storage of a cohort in a folder: durable temporary files, published by a link or a rename."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from engine.errors import AlreadyExists, MissingObject, StoreError
from engine.plain_files import open_plain
from engine.store.backend.atomic_write import (
    discard,
    make_folder,
    open_in_folder,
    publish,
    sync_file,
    write_new,
)
from engine.store.backend.base import STAGING, ObjectInfo, as_folder, check_path
from engine.store.backend.os_errors import (
    as_store_error,
    translate_os_errors,
    translate_write_errors,
)

if TYPE_CHECKING:
    from zarr.storage import LocalStore as ZarrLocalStore

LOCK = f"{STAGING}/lock"
CREATE_LOCK = f"{STAGING}/create.lock"
"""Lock file of `create` on file systems without hard links."""

NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of file systems without hard links (FAT: EPERM)."""

_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Storage in a folder. ``url`` is its absolute path.

    A killed writer leaves files only below ``.staging/``. Safe for concurrent threads, processes
    and, if the file system's locks and links are, hosts.
    """

    url: str

    def _place(self, path: str) -> Path:
        check_path(path)
        return Path(self.url, path)

    def _naming(self, path: str, *, reading: bool = False) -> AbstractContextManager[None]:
        """Translate a file system's errors, with the path: users must know which disk is full."""
        return translate_os_errors(str(Path(self.url, path)), reading=reading, others=True)

    # reading

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of an object, or a part of them."""
        place = self._place(path)
        with self._naming(path, reading=True):
            try:
                with open_plain(place) as file:
                    file.seek(start)
                    return file.read(-1 if length is None else length)
            except (*_GONE, IsADirectoryError):
                raise MissingObject(path) from None

    def size(self, path: str) -> int | None:
        """Return an object's size, bytes, or None if it does not exist."""
        place = self._place(path)
        with self._naming(path, reading=True):
            try:
                found = place.stat()
            except _GONE:
                return None
        return found.st_size if S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects below a folder; one that vanishes during the listing may be absent."""
        folder = as_folder(prefix)
        entries = _walk(Path(self.url, folder), folder)
        while True:
            with self._naming(folder, reading=True):
                entry = next(entries, None)
            if entry is None:
                return
            yield entry

    # writing

    def create(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Publish a new object, durably by default."""
        target = self._place(path)
        with self._naming(path):
            if os.path.lexists(target):  # first: a full disk may refuse the temporary file
                raise AlreadyExists(path)
            temporary = self._temporary_path()
            write_new(temporary, data, durable=durable)
            try:
                self._link(temporary, target, path, durable)
            finally:
                discard(temporary)

    def create_from(self, path: str, local_file: Path) -> None:
        """Publish a local file, which is consumed, as a new object."""
        target = self._place(path)
        with self._naming(path), self._near(local_file) as near:
            self._link(near, target, path)
            discard(local_file)  # if it stayed, a later write into it would change the object

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Publish an object durably, replacing any existing one."""
        target = self._place(path)
        with self._naming(path):
            temporary = self._temporary_path()
            write_new(temporary, data)
            try:
                publish(target.parent, lambda: temporary.replace(target))
            finally:
                discard(temporary)

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        """Update an object under a lock; return False if ``change`` returned None."""
        self._place(path)
        with self._locked(LOCK):
            try:
                old = self.read(path)
            except MissingObject:
                old = None
            new = change(old)
            if new is None:
                return False
            self.replace(path, new)
            return True

    def delete(self, path: str) -> None:
        """Remove an object if it exists."""
        with self._naming(path), suppress(*_GONE):
            self._place(path).unlink()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create a private folder on the same file system, and report a full one."""
        folder = self._temporary_path()
        with translate_os_errors(self.url, others=True):
            make_folder(folder)
        try:
            with translate_write_errors(folder, self.url):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # for other libraries

    def as_zarr_store(self, path: str, read_only: bool = True) -> ZarrLocalStore:
        """Return a Zarr store of a folder."""
        from zarr.storage import LocalStore as ZarrLocalStore

        return ZarrLocalStore(self._place(path), read_only=read_only)

    def delta_location(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the URI and the storage options of a Delta table."""
        return str(self._place(path)), {}

    def as_store_error(
        self, error: BaseException, path: str, *, reading: bool = False
    ) -> StoreError | None:
        """Translate another library's error into a `StoreError`, or return None."""
        return as_store_error(error, str(Path(self.url, path)), reading=reading)

    def require_conditions(self) -> None:
        """Do nothing: a folder needs no conditional puts."""

    def as_local_path(self, path: str) -> Path | None:
        """Return the local path of an object or folder."""
        return Path(self.url, as_folder(path))

    # how

    def _temporary_path(self) -> Path:
        return Path(self.url, STAGING, secrets.token_hex(8))

    @contextmanager
    def _near(self, local_file: Path) -> Iterator[Path]:
        """Yield a durable file on the store's file system: the local one, or a copy."""
        sync_file(local_file)
        make_folder(Path(self.url, STAGING))
        if local_file.stat().st_dev == Path(self.url, STAGING).stat().st_dev:
            yield local_file
            return
        temporary = self._temporary_path()
        try:
            shutil.copyfile(local_file, temporary)
            sync_file(temporary)
            yield temporary
        finally:
            discard(temporary)

    def _link(self, source: Path, target: Path, path: str, durable: bool = True) -> None:
        def link() -> None:
            try:
                os.link(source, target)
            except FileExistsError:
                raise AlreadyExists(path) from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                with self._locked(CREATE_LOCK):
                    if os.path.lexists(target):
                        raise AlreadyExists(path) from None
                    source.rename(target)

        publish(target.parent, link, durable)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = Path(self.url, name)
        with self._naming(name):
            descriptor = _open_locked(lock)
        try:
            yield
        finally:
            with suppress(OSError):  # the lock is lost with its network share
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _open_locked(lock: Path) -> int:
    """Lock the lock file and return its descriptor."""
    while True:
        descriptor = open_in_folder(lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was removed: lock the new one


def _walk(folder: Path, prefix: str) -> Iterator[ObjectInfo]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except _GONE:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            continue
        with suppress(FileNotFoundError):
            status = entry.stat()
            if S_ISREG(status.st_mode):
                yield ObjectInfo(f"{prefix}{entry.name}", status.st_size, status.st_mtime)
