"""TEMPORARY local root until the real one lands (same interface)."""

from __future__ import annotations
import contextlib, errno, fcntl, os, secrets, shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zarr.storage import LocalStore
from engine.errors import AlreadyExists, MissingObject, StoreFull, StoreReadOnly


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    size: int
    modified_s: float


@dataclass(frozen=True)
class Root:
    url: str

    def _p(self, path):
        return Path(self.url) / path

    @contextlib.contextmanager
    def _errs(self, path):
        try:
            yield
        except FileExistsError:
            raise AlreadyExists(path) from None
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(path) from None
            if e.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise StoreReadOnly(path) from None
            raise

    def read(self, path, start=0, length=None):
        try:
            with self._p(path).open("rb") as f:
                f.seek(start)
                return f.read(-1 if length is None else length)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingObject(path) from None

    def size(self, path):
        try:
            return self._p(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, prefix=""):
        base = self._p(prefix)
        if not base.is_dir() and not prefix:
            return
        for d, _, fs in os.walk(base if base.is_dir() else base.parent):
            for f in fs:
                p = Path(d) / f
                rel = p.relative_to(self.url).as_posix()
                if rel.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        st = p.stat()
                        yield Entry(rel, st.st_size, st.st_mtime)

    def _tmp(self, data):
        s = self._p(".staging")
        s.mkdir(parents=True, exist_ok=True)
        t = s / secrets.token_hex(8)
        with t.open("xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        return t

    def create(self, path, data):
        with self._errs(path):
            t = self._tmp(data)
            try:
                self._p(path).parent.mkdir(parents=True, exist_ok=True)
                os.link(t, self._p(path))
            finally:
                t.unlink()

    def create_from(self, path, local_file):
        with self._errs(path):
            self._p(path).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(local_file, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            os.link(local_file, self._p(path))
            os.unlink(local_file)

    def replace(self, path, data):
        with self._errs(path):
            t = self._tmp(data)
            self._p(path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(t, self._p(path))

    def replace_from(self, path, local_file):
        with self._errs(path):
            self._p(path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(local_file, self._p(path))

    def update(self, path, change):
        with self._errs(path):
            self._p(".staging").mkdir(parents=True, exist_ok=True)
            with (self._p(".staging") / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    old = self.read(path)
                except MissingObject:
                    old = None
                new = change(old)
                if new is None:
                    return False
                self.replace(path, new)
                return True

    def delete(self, path):
        with contextlib.suppress(FileNotFoundError):
            self._p(path).unlink()

    @contextlib.contextmanager
    def staging(self):
        s = self._p(".staging") / secrets.token_hex(8)
        with self._errs(".staging"):
            s.mkdir(parents=True)
        try:
            yield s
        finally:
            shutil.rmtree(s, ignore_errors=True)

    def zarr_store(self, path, read_only=True):
        return LocalStore(self._p(path), read_only=read_only)

    def delta(self, path):
        return str(self._p(path)), {}

    def local_path(self, path):
        return self._p(path)


def open_root(url):
    return Root(os.path.abspath(url))
