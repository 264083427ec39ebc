"""Open the storage of a cohort by its path or URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine.errors import ParameterError
from engine.store.backend.base import Store
from engine.store.backend.local import LocalStore


def open_store(url: str | Path) -> Store:
    """Return the store at a path, made absolute, or at a URL such as ``s3://bucket/prefix``.

    This reads and writes nothing. Object stores take their settings from the environment of each
    process: ``AWS_ENDPOINT_URL``, ``AWS_ALLOW_HTTP``, ``AWS_ACCESS_KEY_ID`` and so on.

    Raises
    ------
    ParameterError
        If the kind of store is unknown.
    """
    # Import lazily: a cohort in a folder does not need obstore.
    if isinstance(url, str) and "://" in url:
        parts = urlsplit(url)
        if parts.scheme != "file":
            from engine.store.backend.object_store import open_object_store

            return open_object_store(url)
        url = unquote(parts.path)
    if not str(url) or "\0" in str(url):
        raise ParameterError("url", str(url), "a folder, or a URL such as s3://bucket/prefix")
    return LocalStore(os.path.abspath(url))  # noqa: PTH100 - takes out "..", follows no link
