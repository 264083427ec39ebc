"""Storage of a cohort in an object store, with conditional puts.

Of two concurrent writers of one object, the store refuses one: it must honour If-None-Match and
If-Match (S3 does since 2024, and so do GCS, Azure and MinIO). Settings and credentials come from
the environment of each process and are never kept.
"""

from __future__ import annotations

import random
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore as Client
from obstore.store import from_url
from zarr.storage import ObjectStore as ZarrObjectStore
from zarr.storage import StorePath

from engine.errors import (
    AlreadyExists,
    Conflict,
    EngineError,
    MissingObject,
    NoConditionalPuts,
    ParameterError,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
)
from engine.store.backend.base import STAGING, ObjectInfo, as_folder, check_path
from engine.store.backend.os_errors import as_store_error, translate_write_errors

UPDATE_TRIES = 100
"""Compare-and-swap attempts; each failed one means that another writer succeeded."""

WAIT_S, MOST_WAIT_S = 0.01, 0.5
"""Bounds of the random wait between attempts, seconds: about one request, and some dozens of
them."""

WRITER = "cohort-writer"
"""Object attribute by which a writer recognises its own object."""

NO_ROOM = ("StorageFull", "507 Insufficient Storage", "QuotaExceeded")
"""Error texts of stores that are full (MinIO, Ceph)."""

DENIED = ("403 Forbidden", "401 Unauthorized", "AccessDenied", "lacked the necessary privileges")
"""Error texts of stores that deny access."""

SILENT = ("Generic S3 error", "Generic GCS error", "Generic MicrosoftAzure error", "HTTP error",
          "error sending request", "Error performing", "connection closed")  # fmt: skip
"""Error texts of store clients that got no answer, or none that they understand."""

DENIES = "access is denied"

_STATUS = re.compile(r"status(?: code)?:? (\d{3}(?: [A-Z][A-Za-z]+)*)")


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A prefix of an object store. ``url`` names it, e.g. ``s3://bucket/prefix``."""

    url: str

    @property
    def _store(self) -> Any:
        return _open_store(self.url)

    # reading

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of an object, or a part of them."""
        check_path(path)
        with self._named(path, missing=MissingObject(path), reading=True):
            if start == 0 and length is None:
                return bytes(obstore.get(self._store, path).bytes())
            size = int(obstore.head(self._store, path)["size"])
            stop = size if length is None else min(start + length, size)
            if start >= stop:  # stores refuse a range without bytes
                return b""
            return bytes(obstore.get_range(self._store, path, start=start, end=stop))

    def size(self, path: str) -> int | None:
        """Return an object's size, bytes, or None if it does not exist."""
        check_path(path)
        with suppress(MissingObject), self._named(path, missing=MissingObject(path), reading=True):
            return int(obstore.head(self._store, path)["size"])
        return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects below a folder."""
        folder = as_folder(prefix)
        with self._named(folder, reading=True):
            for batch in obstore.list(self._store, folder or None):
                for meta in batch:
                    modified_s = meta["last_modified"].timestamp()
                    yield ObjectInfo(meta["path"], meta["size"], modified_s)

    # writing

    def create(self, path: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Publish a new object."""
        self._create(path, bytes(data))

    def create_from(self, path: str, local_file: Path) -> None:
        """Publish a local file as a new object; the file stays."""
        self._create(path, local_file)

    def _create(self, path: str, body: bytes | Path) -> None:
        check_path(path)
        mine = {WRITER: secrets.token_hex(8)}
        try:
            with self._named(path):
                obstore.put(self._store, path, body, mode="create", attributes=mine)
        except AlreadyExistsError:
            # If the answer to a first attempt was lost, the existing object is ours.
            with self._named(path, missing=AlreadyExists(path), reading=True):
                there = obstore.get(self._store, path).attributes
            if there.get(WRITER) != mine[WRITER]:
                raise AlreadyExists(path) from None

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Publish an object, replacing any existing one."""
        check_path(path)
        with self._named(path):
            obstore.put(self._store, path, bytes(data))

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        """Update an object by compare-and-swap; return False if ``change`` returned None."""
        check_path(path)
        for tries in range(UPDATE_TRIES):
            old, mode = self._current(path)
            new = change(old)
            if new is None:
                return False
            try:
                with self._named(path, missing=PreconditionFailed(path)):
                    obstore.put(self._store, path, new, mode=mode)
                return True
            except (AlreadyExistsError, PreconditionError, PreconditionFailed):
                time.sleep(random.uniform(0, min(MOST_WAIT_S, WAIT_S * 2 ** min(tries, 10))))
        raise Conflict(path)

    def _current(self, path: str) -> tuple[bytes | None, Any]:
        """Return an object's bytes, and the put mode that replaces only these bytes."""
        try:
            with self._named(path, missing=MissingObject(path), reading=True):
                found = obstore.get(self._store, path)
                meta = found.meta
                data = bytes(found.bytes())
        except MissingObject:
            return None, "create"
        return data, {k: meta[k] for k in ("e_tag", "version") if meta[k] is not None}

    def delete(self, path: str) -> None:
        """Remove an object if it exists."""
        check_path(path)
        with suppress(MissingObject), self._named(path, missing=MissingObject(path)):
            obstore.delete(self._store, path)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create a private folder among this machine's temporary files."""
        with (
            tempfile.TemporaryDirectory(prefix="cohort-", ignore_cleanup_errors=True) as name,
            translate_write_errors(Path(name), tempfile.gettempdir()),
        ):
            yield Path(name)

    # for other libraries

    def as_zarr_store(self, path: str, read_only: bool = True) -> StorePath:
        """Return a path in a Zarr store."""
        check_path(path)
        return StorePath(ZarrObjectStore(self._store, read_only=read_only), path)

    def delta_location(self, path: str) -> tuple[str, dict[str, str]]:
        """Return the URI and the storage options of a Delta table."""
        check_path(path)
        s3 = urlsplit(self.url).scheme in ("s3", "s3a")
        # A commit is a put that fails if the log entry exists.
        return f"{self.url}/{path}", {"aws_conditional_put": "etag"} if s3 else {}

    def as_local_path(self, path: str) -> Path | None:
        """Return None: there are no local files."""
        as_folder(path)
        return None

    def as_store_error(
        self, error: BaseException, path: str, *, reading: bool = False
    ) -> StoreError | None:
        """Translate another library's error into a `StoreError`, or return None.

        Delta and Zarr report the store's error only as text, which may hold addresses and the
        server's answer: the text stays in the cause.
        """
        where = f"{self.url}/{path}" if path else self.url
        text = str(error)
        if any(sign in text for sign in NO_ROOM):
            return StoreFull(where)
        if "NoSuchBucket" in text:
            return StoreUnreachable(self.url, "there is no such bucket")
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError | NotSupportedError)
        if denied or any(sign in text for sign in DENIED):
            return StoreUnreachable(self.url, DENIES) if reading else StoreReadOnly(where)
        if status := _STATUS.search(text):
            return StoreUnreachable(self.url, f"it answered {status[1]}")
        if isinstance(error, BaseError) or any(sign in text for sign in SILENT):
            return StoreUnreachable(self.url, "it gave no answer")
        return as_store_error(error, where, reading=reading)

    def require_conditions(self) -> None:
        """Check with a probe that the store refuses a second create and a stale replace."""
        probe = f"{STAGING}/{secrets.token_hex(8)}"
        self.create(probe, b"1")
        try:
            with suppress(AlreadyExists):
                self.create(probe, b"2")  # with other bytes: equal ones would count as ours
                raise NoConditionalPuts(self.url, "If-None-Match")
            _, mode = self._current(probe)
            self.replace(probe, b"3")
            with suppress(AlreadyExistsError, PreconditionError), self._named(probe):
                obstore.put(self._store, probe, b"4", mode=mode)
                raise NoConditionalPuts(self.url, "If-Match")
        finally:
            self.delete(probe)

    @contextmanager
    def _named(
        self, path: str, missing: Exception | None = None, *, reading: bool = False
    ) -> Iterator[None]:
        """Translate a store's errors; let failed preconditions pass."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError, EngineError):
            raise
        except FileNotFoundError as error:
            # A put or a list raises this only if the bucket is missing.
            raise missing or StoreUnreachable(self.url, "there is no such bucket") from error
        except BaseError as error:
            named = self.as_store_error(error, path, reading=reading)
            raise named or StoreUnreachable(self.url, type(error).__name__) from error
        except OSError as error:  # from the local file that is uploaded
            raise as_store_error(error, tempfile.gettempdir(), others=True) or error from error


class PreconditionFailed(Exception):
    """The object to replace no longer exists; internal, leads to the next attempt."""


@cache
def _open_store(url: str) -> Client:
    # No client options: if any is given, those of the environment (AWS_ALLOW_HTTP) are ignored.
    return from_url(url)


def open_object_store(url: str) -> ObjectStore:
    """Return the store at a URL.

    Raises
    ------
    ParameterError
        If the kind of store is unknown, or the URL holds more than a location.
    """
    parts = urlsplit(url)
    expected = "a folder, or a URL such as s3://bucket/prefix"
    if parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise ParameterError("url", url, expected)
    store = ObjectStore(url.rstrip("/"))
    try:
        _open_store(store.url)
    except (BaseError, ValueError, TypeError):
        raise ParameterError("url", url, expected) from None
    return store
