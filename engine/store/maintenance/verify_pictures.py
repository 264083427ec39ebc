"""Check the pictures of quality control: every file in an index, and the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from engine.errors import CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.digests import digest_bytes
from engine.store.maintenance.problems import CORRUPT, MISSING, Problem, report_errors
from engine.store.pictures import INDEX, check_page, digest_in, read_picture_index

REMEDY = "remove it, and cohort qc makes it again"

_File = tuple[str, int]
_Apply = Callable[[Callable[[_File], Problem | None], Iterable[_File]], Iterator[Problem | None]]


def check_pictures(store: Store, folder: str, apply: _Apply, found: set[str]) -> Iterator[Problem]:
    """Yield the problems of a folder of pictures, all of which can be made again.

    Parameters
    ----------
    folder
        Folder of an operation's pictures, e.g. ``qc/circles``.
    apply
        Like `map`; may work on several files at once.
    found
        Set to which the indexed paths are added.
    """
    yield from report_errors(f"{folder}/{INDEX}", partial(_page, store, f"{folder}/{INDEX}"))
    # Read the index before the files: files exist before they are indexed.
    noted = read_picture_index(store, folder)
    files = {f"{folder}/{path}": size for one in noted.values() for path, size in one.files}
    found.update(files)
    yield from (problem for problem in apply(partial(_file, store), files.items()) if problem)


def _page(store: Store, path: str) -> Iterator[Problem]:
    if store.size(path) is not None:
        problem = check_page(store.read(path))
        if problem is not None:
            raise CorruptStore(path, f"{problem}; cohort qc makes it again")
    yield from ()


def _file(store: Store, file: _File) -> Problem | None:
    path, size = file
    try:
        data = store.read(path)
    except MissingObject:
        return Problem(path, MISSING, "is not there; cohort qc makes it again")
    if len(data) != size or digest_bytes(data) != digest_in(path):
        return Problem(path, CORRUPT, f"its bytes do not match the digest in its name; {REMEDY}")
    return None
