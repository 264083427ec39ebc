"""Keyed pseudonyms: hide identities, and keep equal values equal.

A pseudonym is the first 80 bits of HMAC-SHA256 (RFC 2104) of a kind and a value. Without the key,
names can't be guessed by trial; with it, a patient has the same pseudonym every night. The key
comes from a file or the environment. Only the driver holds it (it can't be pickled, so it never
reaches a worker, a log or the store), and a digest in cohort.toml identifies it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from engine.errors import EngineError, UsageError
from engine.header import Header, PatientIdentity
from engine.plain_files import NotAFile, read_plain

KEY_FILE, KEY = "COHORT_PSEUDONYM_KEY_FILE", "COHORT_PSEUDONYM_KEY"
"""Environment variables: the path of the key's file, or the key itself."""

LEAST_KEY_BYTES = 16
"""Minimum length of a key: a shorter one could be guessed."""

DIGITS = 20
"""Hexadecimal digits of a pseudonym: 80 bits, so that a million of them do not collide by
chance."""

_HELD = 65_536  # folder names cached while a tree is walked


class NoPseudonymKey(UsageError):
    """Confidential source without a usable key: (problem,)."""

    def __str__(self) -> str:
        return (
            f"Confidential sources (DICOM) need a key for pseudonyms: {self.args[0]}. Make one "
            "once, keep it safe and outside of the cohort, and use it every night: "
            "python3 -c 'import secrets; print(secrets.token_hex(32))' > pseudonyms.key; "
            f"chmod 600 pseudonyms.key; export {KEY_FILE}=$PWD/pseudonyms.key"
        )


class OtherPseudonymKey(EngineError):
    """Key that differs from the one of the cohort's pseudonyms: (url,)."""

    def __str__(self) -> str:
        return (
            f"The key in {KEY_FILE} or {KEY} is not the one that the pseudonyms of {self.args[0]} "
            "were made with: every patient would become another one. Give the first key."
        )


class Pseudonyms:
    """Generator of pseudonyms with one key.

    Parameters
    ----------
    key
        At least `LEAST_KEY_BYTES` bytes.

    Examples
    --------
    >>> names = Pseudonyms(b"sixteen bytes or more")
    >>> names.of("patient", "Doe") == names.of("patient", "Doe") != names.of("study", "Doe")
    True
    >>> names
    Pseudonyms(...)
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise NoPseudonymKey(f"this one has {len(key)} bytes, {LEAST_KEY_BYTES} are needed")
        self._key = key
        self._component = lru_cache(_HELD)(self._hide_component)

    def __repr__(self) -> str:
        return "Pseudonyms(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key of pseudonyms is never pickled: it stays with the driver")

    @property
    def check(self) -> str:
        """Digest that identifies the key without revealing it."""
        return self._digest("check", "")[:32]

    def of(self, kind: str, value: str) -> str:
        """Return the pseudonym of a value; it differs between kinds."""
        return self._digest(kind, value)[:DIGITS]

    def path(self, path: str, suffixes: tuple[str, ...] = ()) -> str:
        """Return a path with each component replaced by a pseudonym of its own.

        Parameters
        ----------
        path
            Relative, with ``/``.
        suffixes
            Suffixes to keep on the last component, in lower case.

        Examples
        --------
        >>> names = Pseudonyms(b"sixteen bytes or more")
        >>> hidden = names.path("Doe/1.DCM", (".dcm",))
        >>> hidden.startswith(names.path("Doe") + "/"), hidden.endswith(".dcm")
        (True, True)
        """
        *folders, last = path.split("/")
        kept = next((s for s in suffixes if last.lower().endswith(s)), "")
        return "/".join([*map(self._component, folders), self._component(last) + kept])

    def hide(self, header: Header) -> Header:
        """Return a header with a pseudonymised identity."""
        known = header.identity
        # Without a patient ID, the study stands for the patient: two unknown patients must differ.
        patient = _same_text(known.patient)
        named = ("patient", patient) if patient else ("patient of study", known.study)
        hidden = PatientIdentity(
            patient=self.of(*named),
            study=self.of("study", known.study),
            series=self.of("series", known.series),
            instance=self.of("instance", known.instance),
            frame_of_reference=self.of("frame of reference", known.frame_of_reference),
        )
        return replace(header, identity=hidden, pseudonymised=True)

    def _hide_component(self, name: str) -> str:
        return name if name in ("", ".") else self._digest("path", name)[:16]

    def _digest(self, kind: str, value: str) -> str:
        text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def _same_text(text: str) -> str:
    """Normalise the spellings of one patient's ID to a common form."""
    return unicodedata.normalize("NFC", text).strip(" \0\t\r\n")


_lock = threading.Lock()
_withheld: str | None = None
_withholding = 0


@contextmanager
def key_withheld() -> Iterator[None]:
    """Hide the key in the block from this process's environment, which child processes inherit.

    `read_key` still finds it. Blocks may overlap in threads.
    """
    global _withheld, _withholding
    with _lock:
        _withholding += 1
        _withheld = os.environ.pop(KEY, _withheld)
    try:
        yield
    finally:
        with _lock:
            _withholding -= 1
            if not _withholding and _withheld is not None:
                os.environ.setdefault(KEY, _withheld)
                _withheld = None


def read_key(environment: Mapping[str, str] = os.environ, outside: str | None = None) -> Pseudonyms:
    """Return the pseudonym generator for the key in the environment.

    Parameters
    ----------
    environment
        Holds `KEY_FILE` or `KEY`.
    outside
        Folder that must not contain the key's file: the cohort.

    Raises
    ------
    NoPseudonymKey
        If no key is set, or the key can't be read, is too short, or is inside the cohort.
    """
    with _lock:
        file, text = environment.get(KEY_FILE), environment.get(KEY)
        if text is None and environment is os.environ:
            text = _withheld
    if file:
        place = Path(file).resolve()
        if outside is not None and place.is_relative_to(Path(outside).resolve()):
            raise NoPseudonymKey(f"the file that {KEY_FILE} names is inside the cohort")
        try:
            return Pseudonyms(read_plain(place).strip())
        except NotAFile:
            told = "is a pipe, a socket or a device, and not a file"
            raise NoPseudonymKey(f"the path in {KEY_FILE} {told}") from None
        except OSError as error:
            raise NoPseudonymKey(
                f"the file that {KEY_FILE} names can't be read ({type(error).__name__})"
            ) from None
    if text:
        return Pseudonyms(text.strip().encode())
    raise NoPseudonymKey(f"neither {KEY_FILE} nor {KEY} is set")
