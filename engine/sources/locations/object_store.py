"""Prefix of an object store, used like a folder: list, open and stat objects.

A root's path is ``s3://bucket/prefix`` (or another scheme that obstore supports). Settings and
credentials come from the environment of each process (``AWS_*``) and are never kept. An object is
read by ranges, so that a header costs one small request, and only while it is the object that was
opened (If-Match), so that two versions are never mixed.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from engine.errors import ParameterError, SourceUnreadable, StoreUnreachable
from engine.range_file import RangeFile
from engine.sources.failures import unreadable
from engine.sources.locations.folder import FileStat, escape_path, unescape_path

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES, RETRY_S = 5, 30.0
"""Retries of a failed request, and their total time, seconds: one object must not keep the others
waiting for minutes. The next ingest tries again."""

BUFFER_BYTES = 256 * 1024
"""Read-ahead buffer, bytes: holds most headers, in one request."""


def is_bucket(path: str) -> bool:
    """Return True if a root's path is the URL of an object store.

    Examples
    --------
    >>> is_bucket("s3://bucket/nights"), is_bucket("/data/nights")
    (True, False)
    """
    return "://" in path and "+" not in urlsplit(path).scheme


def walk_objects(url: str, below: str = "") -> Iterator[FileStat]:
    """Yield the objects below a prefix, in the order of the store's listing.

    In place of the inode's change time they have a number derived from the entity tag, which
    changes with the bytes.

    Parameters
    ----------
    url
        URL of the root.
    below
        Path below the root, escaped like `FileStat.path`; it may name one object.

    Raises
    ------
    StoreUnreachable, ParameterError
    """
    import obstore

    store = _opened(url)
    below = unescape_path(below.strip("/"))
    with _named(url):
        if below and (one := _head(store, below)) is not None:
            yield _stat_of(below, one)
            return
        for batch in obstore.list(store, below or None):
            for meta in batch:
                yield _stat_of(meta["path"], meta)


def open_object(url: str, path: str) -> BinaryIO:
    """Open a listed object for reading.

    Raises
    ------
    SourceUnreadable
        ``vanished`` or ``unreadable``; the next ingest tries again.
    """
    key = unescape_path(path)
    meta = _look(url, key)
    if meta is None:
        raise SourceUnreadable("vanished", "the object is gone")
    return io.BufferedReader(_Object(url, key, int(meta["size"]), meta["e_tag"]), BUFFER_BYTES)


def stat_object(url: str, path: str) -> FileStat | None:
    """Return the current state of an object, or None if it no longer exists.

    Raises
    ------
    SourceUnreadable
        ``unreadable`` if the store does not answer.
    """
    key = unescape_path(path)
    meta = _look(url, key)
    return None if meta is None else _stat_of(key, meta)


def _look(url: str, key: str) -> Any:
    try:
        return _head(_opened(url), key)
    except ParameterError:
        raise
    except Exception as error:  # obstore raises many types, with addresses in their texts
        raise unreadable(_failure(error)) from None


def _failure(error: Exception) -> OSError:
    """Return the disk error that corresponds to a store's error."""
    from obstore.exceptions import PermissionDeniedError, PreconditionError

    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "the object is gone")
    if isinstance(error, PermissionDeniedError):
        return PermissionError(errno.EACCES, "access is denied")
    # Another object was written under this name since the open.
    number = errno.ESTALE if isinstance(error, PreconditionError) else errno.EIO
    return OSError(number, f"the store said {type(error).__name__}")


class _Object(RangeFile):
    """Object, read by ranges; the store's errors are raised as `OSError`, like a disk's."""

    failure: OSError | None = None

    def __init__(self, url: str, key: str, size: int, tag: str | None) -> None:
        super().__init__(size)
        self._url = url
        self._key = key
        self._tag = tag

    def read_range(self, start: int, stop: int) -> bytes:
        import obstore

        options: dict[str, Any] = {"range": (start, stop)}
        if self._tag is not None:
            options["if_match"] = self._tag
        try:
            return bytes(obstore.get(_opened(self._url), self._key, options=options).bytes())  # type: ignore[arg-type]
        except Exception as error:
            self.failure = self.failure or _failure(error)
            raise self.failure from None


def _head(store: ObjectStore, key: str) -> Any:
    import obstore

    try:
        return obstore.head(store, key)
    except FileNotFoundError:
        return None


def _stat_of(key: str, meta: Any) -> FileStat:
    modified_ns = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
    tag = sha256(str(meta["e_tag"]).encode()).digest()
    return FileStat(escape_path(key), int(meta["size"]), modified_ns, int.from_bytes(tag[:7]))


@contextmanager
def _named(url: str) -> Iterator[None]:
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError:
        raise StoreUnreachable(url, "there is no such bucket") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise StoreUnreachable(url, "access is denied") from None
    except BaseError as error:
        missing = "NoSuchBucket" in str(error)
        problem = "there is no such bucket" if missing else type(error).__name__
        raise StoreUnreachable(url, problem) from None


@cache
def _opened(url: str) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    parts = urlsplit(url)
    expected = "a folder, or a URL such as s3://bucket/prefix"
    if parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise ParameterError("SOURCE", url, expected)
    try:
        retry: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        return from_url(url, retry_config=retry)
    except (BaseError, ValueError, TypeError):
        raise ParameterError("SOURCE", url, expected) from None
