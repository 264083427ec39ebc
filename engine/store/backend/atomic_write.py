"""Durable files and names on a local file system: the steps of every atomic write.

Data are synced before their name is published, and the name's folder after it, so that a power cut
leaves either the old content or the new one.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import UsageError
from engine.store.backend.os_errors import as_store_error

NO_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
"""Errors of file systems that can't sync a folder; they order names themselves."""

PUBLISH_TRIES = 10
"""Attempts to publish into a folder that may vanish (gc removes empty folders)."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably: a reader finds either the old or the new bytes.

    Raises
    ------
    StoreFull, StoreReadOnly
    UsageError
        If the file can't be written for another reason, e.g. because its folder is a file.
    """
    with atomic_replace(path) as temporary:
        write_new(temporary, data, durable=False)


@contextmanager
def atomic_replace(path: Path, shown: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside a file, which the file there replaces after the block.

    Parameters
    ----------
    shown
        Path for messages; ``path`` by default.

    Raises
    ------
    StoreFull, StoreReadOnly
    UsageError
        If the file can't be written for another reason.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        publish(path.parent, lambda: temporary.replace(path))
    except OSError as error:
        named = as_store_error(error, str(shown or path))
        if named is None and error.errno is None:
            raise
        raise named or UsageError(f"{shown or path} can't be written: {error.strerror}.") from None
    finally:
        discard(temporary)


def write_new(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a new file, durably by default, and its folder; leave no file if that fails."""
    descriptor = open_in_folder(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        left = memoryview(data).cast("B")
        while len(left):
            left = left[os.write(descriptor, left) :]
        if durable:
            os.fsync(descriptor)
    except BaseException:
        discard(path)
        raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file's data are durable (fsync)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def publish(folder: Path, rename: Callable[[], object], durable: bool = True) -> None:
    """Give a file its name in a folder, durably by default; create the folder if needed."""
    for tries in range(PUBLISH_TRIES):
        make_folder(folder)
        try:
            rename()
            break
        except FileNotFoundError:
            if tries == PUBLISH_TRIES - 1:
                raise
    if durable:
        sync_folder(folder)


def discard(temporary: Path) -> None:
    """Remove a temporary file; gc removes any that can't be removed."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def open_in_folder(path: Path, flags: int) -> int:
    """Open a file, and return its descriptor; create its folder if needed."""
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        make_folder(path.parent)
        return os.open(path, flags, 0o666)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and make each name durable."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(folder)) from None
        return
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are durable (fsync)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # emptied and removed by another process: nothing to sync
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
