r"""Discovery of the files below a root, each once, under names that any catalog can hold.

Links: a symbolic link that stays inside the root is left out, since its target is listed under its
own path; so loops can't arise. A link that leads out of the root is refused with a row of its own
(``outside_root``). The root itself may be a link.

Names: a POSIX name is bytes. Listed paths escape invalid UTF-8, control characters and the
backslash as ``\xNN``; the rest is unchanged. `real_path` reverses this exactly.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.errors import NoSource, SourceUnreadable
from engine.sources.failures import open_remembering, unreadable

# Controls, line ends, the backslash itself, and bytes that are not UTF-8.
_NEEDS_ESCAPE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\\\\\ud800-\\udfff]")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class FileStat:
    """File below a root, as listed.

    Attributes
    ----------
    path
        Relative to the root, with ``/``, escaped to valid UTF-8. A folder that could not be listed
        also has a row; its path ends in ``/``.
    size
        Size, bytes; 0 if there is a problem.
    mtime_ns, ctime_ns
        Times of modification and of change of the inode, nanoseconds since 1970.
    problem
        A code of `engine.sources.REASONS`, or None: the file can be opened.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    problem: str | None = None


def escape_path(path: str) -> str:
    r"""Escape an operating-system path as one line of valid UTF-8, reversibly.

    Parameters
    ----------
    path
        As `os.fsdecode` and `os.scandir` give it, with surrogates for bytes that are not UTF-8.

    Examples
    --------
    >>> escape_path("été/a b.png")
    'été/a b.png'
    >>> print(escape_path(os.fsdecode(b"caf\xe9\n.png")))
    caf\xe9\x0a.png
    """
    if _NEEDS_ESCAPE.search(path) is None:
        return path
    return _NEEDS_ESCAPE.sub(
        lambda found: "".join(f"\\x{byte:02x}" for byte in os.fsencode(found.group())), path
    )


def unescape_path(path: str) -> str:
    r"""Return the operating-system path that `escape_path` escaped.

    Examples
    --------
    >>> os.fsencode(unescape_path("caf\\xe9.png"))
    b'caf\xe9.png'
    """
    if "\\" not in path:
        return path
    # On bytes, since two adjacent escapes may be half a character each.
    raw = _ESCAPED.sub(lambda found: bytes([int(found.group(1), 16)]), path.encode())
    return os.fsdecode(raw)


def real_path(root: Path, path: str) -> Path:
    """Return the operating-system path of a listed file.

    Raises
    ------
    SourceUnreadable
        ``outside_root`` if ``path`` is absolute, climbs with ``..`` or holds a NUL.
    """
    return root / unescape_path(_check_path(path))


def _check_path(path: str) -> str:
    relative = unescape_path(path)
    if relative.startswith("/") or ".." in relative.split("/") or "\0" in relative:
        raise SourceUnreadable("outside_root", "the path leads out of the source's root")
    return path


def open_file(root: Path, path: str) -> BinaryIO:
    """Open a listed file for reading; refuse a link, a pipe or a device.

    Parameters
    ----------
    root, path
        As for and from `walk_files`.

    Raises
    ------
    SourceUnreadable
        ``vanished``, ``unreadable``, ``outside_root`` (it has become a link), ``not_a_file``.
    """
    *folders, name = unescape_path(_check_path(path)).split("/")
    # Open each folder in turn, since it may have become a link after it was listed.
    step = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # Without O_NONBLOCK, opening a pipe in the file's place would block for ever.
    last = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for folder in folders:
            above = at
            try:
                at = os.open(folder, step, dir_fd=above)
            finally:
                os.close(above)
        try:
            descriptor = os.open(name, last, dir_fd=at)
        finally:
            os.close(at)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except OSError:
            os.close(descriptor)
            raise
    except NotADirectoryError:
        # Linux also reports this for a link in place of a folder (O_DIRECTORY is checked first).
        raise SourceUnreadable("outside_root", "a folder has become a link or a file") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceUnreadable("outside_root", "the file has become a link") from None
        raise unreadable(error) from None
    if not regular:
        os.close(descriptor)
        raise SourceUnreadable("not_a_file", "a folder, pipe, socket or device")
    return open_remembering(descriptor)


def stat_file(root: Path, path: str) -> FileStat | None:
    """Return the current state of a listed file, or None if it no longer exists.

    Raises
    ------
    SourceUnreadable
        ``unreadable`` if the state can't be determined at this time; ``outside_root``.
    """
    try:
        found = os.lstat(real_path(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(error) from None
    return FileStat(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def walk_files(root: Path, below: str = "") -> Iterator[FileStat]:
    """Yield each file below a root exactly once, in the order of the paths' bytes.

    Hidden and unsupported files are yielded as well; the caller ignores files without a reader.
    Files that vanish during the walk are left out. Memory is bound by the largest folder.

    Parameters
    ----------
    root
        Folder, or link to one.
    below
        Path below the root to walk, relative and escaped like `FileStat.path`; "" is the whole
        root. It may name one file.

    Raises
    ------
    NoSource
        If the folder does not exist.
    SourceUnreadable
        ``outside_root`` if ``below`` leads out of the root.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "b.png").write_bytes(b"")
    ...     [(found.path, found.size) for found in walk_files(Path(folder))]
    [('b.png', 0)]
    """
    below = below.strip("/")
    top = os.path.realpath(root)
    start = os.path.realpath(real_path(Path(top), below))
    if not _inside(start, top):
        raise SourceUnreadable("outside_root", "the folder to walk leads out of the root")
    if not os.path.isdir(top):  # noqa: PTH112 - strings are three times faster than Path here
        raise NoSource(os.fspath(root))
    prefix = os.path.relpath(start, top)
    try:
        found = os.stat(start)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        raise NoSource(f"{root}/{below}") from None
    except OSError as error:
        yield FileStat(escape_path(prefix), 0, 0, 0, unreadable(error).reason)
        return
    if stat.S_ISDIR(found.st_mode):
        yield from _walk(top, "" if prefix == "." else prefix + "/")
    elif stat.S_ISREG(found.st_mode):
        yield _stat_of(prefix, found)
    else:
        raise NoSource(f"{root}/{below}")


def _walk(top: str, prefix: str) -> Iterator[FileStat]:
    """Walk without recursion, since a foreign tree may be thousands of folders deep."""
    pending: list[Iterator[tuple[bytes, os.DirEntry[str]]]] = []
    prefixes: list[str] = []
    below: str | None = prefix
    while below is not None or pending:
        if below is not None:
            entries, problem = _list_folder(f"{top}/{below.removesuffix('/')}")
            if problem is not None:
                yield FileStat(escape_path(below or "./"), 0, 0, 0, problem)
            pending.append(entries)
            prefixes.append(below)
            below = None
        name, entry = next(pending[-1], (b"", None))
        if entry is None:
            pending.pop()
            prefixes.pop()
            continue
        path = prefixes[-1] + entry.name
        if name.endswith(b"/"):
            below = path + "/"
        else:
            found = _look_at(entry, path, top)
            if found is not None:
                yield found


def _list_folder(place: str) -> tuple[Iterator[tuple[bytes, os.DirEntry[str]]], str | None]:
    """Return the entries in the order of whole paths, and the problem that hid others, or None."""
    named: list[tuple[bytes, os.DirEntry[str]]] = []
    problem = None
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                # Sort a folder with a slash, as its paths are: "a.png" comes before "a/b.png".
                named.append((os.fsencode(entry.name) + b"/" * _is_folder(entry), entry))
    except OSError as error:
        problem = str(unreadable(error).reason)
    named.sort(key=lambda pair: pair[0])
    return iter(named), problem


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True if an entry is a folder; `_look_at` reports inaccessible ones."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _look_at(entry: os.DirEntry[str], path: str, top: str) -> FileStat | None:
    try:
        if entry.is_symlink():
            problem = _judge_link(entry.path, top)
            return None if problem is None else FileStat(escape_path(path), 0, 0, 0, problem)
        return _stat_of(path, entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError:
        return FileStat(escape_path(path), 0, 0, 0, "unreadable")


def _stat_of(path: str, found: os.stat_result) -> FileStat:
    if not stat.S_ISREG(found.st_mode):
        return FileStat(escape_path(path), 0, found.st_mtime_ns, found.st_ctime_ns, "not_a_file")
    return FileStat(escape_path(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _judge_link(place: str, top: str) -> str | None:
    """Return the reason to refuse a link, or None if it stays inside the root."""
    try:
        target = os.path.realpath(place, strict=True)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "link_loop"
        # A dangling link is checked by its target path, too: else links could probe for files
        # outside.
        if not _inside(os.path.realpath(place), top):
            return "outside_root"
        return unreadable(error).reason
    return None if _inside(target, top) else "outside_root"


def _inside(place: str, top: str) -> bool:
    return place == top or place.startswith(top.rstrip("/") + "/")


__all__ = [
    "FileStat",
    "escape_path",
    "open_file",
    "real_path",
    "stat_file",
    "unescape_path",
    "walk_files",
]
